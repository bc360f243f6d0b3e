"""Calibrating and quantizing CLIP ViT-B/32: time against one forward pass, memory, and what the output lost.

Random weights (the arithmetic does not care), 128 images and 10 prompts, both towers. Each line calibrates for its own
scheme, though one pass could serve several; "forwards" counts forward passes over the same images. "peak MB" is the
memory of the process above that before the call, model loaded and warm; the copy that is made is part of it.
"1 - cos" is what the image features lost, on the first 32 images.

The peer is NVIDIA's modelopt in the same process, the same layers and numbers, its search of AWQ scales over 11 ratios
followed by its clip, and its GPTQ: install it with `pip install nvidia-modelopt`; without it its lines are left out.

    python benchmarks/quantization.py [--quick] [images=128] [layers=12, in each tower]
        [schemes=w8a8-minmax,w4a8-awq] [peers=w4a16]
"""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import torch
import torch.nn.functional as F
from goals import Table, goal, machine, script
from torch import nn
from transformers import CLIPConfig, CLIPModel

from edgelib.quant.quantize import quantize

SCHEMES = (
    "w8a8-minmax",
    "w8a8-minmax-static",
    "w8a8-smoothquant",
    "w4a8-mse",
    "w4a8-imatrix",
    "w4a8-awq",
    "w4a16-awq",
    "w4a16-gptq",
    "nvfp4",
    "nvfp4-awq",
)
QUICK = "w8a8-minmax,w8a8-minmax-static,w8a8-smoothquant,w4a8-mse,w4a8-awq,w4a16-gptq"
PEERS = {"w4a16": "max", "w4a16-awq": "awq_full", "w4a16-gptq": "gptq"}
MB = 2**20


def resident() -> float:
    """Memory of this process in MB; NaN where there is no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 / MB if statm.is_file() else float("nan")


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Sample the process's memory while the block runs; the list holds the peak."""
    peak, done = [resident()], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def import_peer():
    """Return modelopt's quantization module, or None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization as peer
    except ImportError:
        return None
    return peer


def peer_quantize(peer, model: nn.Module, batches: list[dict], algorithm: str) -> nn.Module:
    """Quantize a copy by modelopt: int4 weights in groups of 128 in every Linear."""
    settings = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "block_sizes": {-1: 128, "type": "static"}}},
        ],
        "algorithm": {"method": algorithm},
    }
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer.quantize(copy.deepcopy(model), settings, forward_loop=lambda m: [m(**batch) for batch in batches])


def main(images: int = 128, layers: int = 12, schemes: str = ",".join(SCHEMES), peers: str = ",".join(PEERS)) -> None:
    """Print one line per scheme, and per scheme of the peer."""
    torch.manual_seed(0)
    depth = {"num_hidden_layers": layers}
    model = CLIPModel(CLIPConfig(vision_config=depth, text_config=depth)).eval()
    pixels = torch.randn(images, 3, 224, 224)
    prompts = {"input_ids": torch.randint(1, 49000, (10, 16)), "attention_mask": torch.ones(10, 16, dtype=torch.long)}
    batches = [{"pixel_values": part} | prompts for part in pixels.split(32)]

    def forward():
        for batch in batches:
            model(**batch)

    def seconds_of(work: Callable[[], object]) -> tuple[object, float]:
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start

    forward()
    base = min(seconds_of(forward)[1] for _ in range(3))
    reference = model(**batches[0]).image_embeds
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / MB
    print(machine())
    print(f"CLIP ViT-B/32 with {layers} layers per tower ({size:.0f} MB), {images} images: forward {base:.1f} s")
    table = Table(
        ("", 28, ""), ("seconds", 9, ".1f"), ("forwards", 10, ".2f"), ("peak MB", 9, ".0f"), ("1 - cos", 10, ".5f")
    )

    def measure(name: str, work: Callable[[], nn.Module]) -> tuple[float, float]:
        before = resident()
        with peak_memory() as peak:
            result, seconds = seconds_of(work)
        loss = 1 - F.cosine_similarity(result(**batches[0]).image_embeds, reference).mean()
        table.row(name, seconds, seconds / base, peak[0] - before, loss)
        return seconds, peak[0] - before

    found = {name: measure(name, partial(quantize, model, name, batches)) for name in schemes.split(",")}
    peer = import_peer()
    for name in peers.split(",") if peer else ():
        measure(f"modelopt {name} {PEERS[name]}", partial(peer_quantize, peer, model, batches, PEERS[name]))
    goal("w8a8-minmax-static, forward passes", found["w8a8-minmax-static"][0] / base, at_most=2)
    goal("slowest AWQ", max(s for name, (s, _) in found.items() if "awq" in name), at_most=180, unit="s")
    goal("GPTQ", found["w4a16-gptq"][0], at_most=180, unit="s")
    goal("most memory beside the model", max(peak for _, peak in found.values()), at_most=1536, unit="MB")


if __name__ == "__main__":
    with torch.no_grad():
        script(main, images=8, layers=1, schemes=QUICK, peers="w4a16")
