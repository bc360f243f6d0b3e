"""The whole grid against the naive loop: corrupt again for every configuration, decode weights in every forward.

Run: python benchmarks/grid.py [images]. Both compute the same predictions, which is checked.
"""

from __future__ import annotations

import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import nn

import edgelib
from edgelib.evaluation.store import CellStore
from edgelib.evaluation.sweep import Grid, conditions_of, sweep, variants_of
from edgelib.quant.formats import fake_quantize
from edgelib.quant.quantize import QuantLinear

CONFIGS = ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"]
CORRUPTIONS = ["gaussian_noise", "defocus_blur", "motion_blur", "fog", "brightness", "jpeg_compression"]
SEVERITIES = [1, 3, 5]


class DecodingLinear(nn.Module):
    """A Linear that keeps 16-bit codes and decodes them in every forward, rounding its input by separate steps."""

    def __init__(self, layer: QuantLinear):
        super().__init__()
        self.codes, self.scale, self.bias = layer.codes().to(torch.int16), layer.scale, layer.bias

    def forward(self, x):
        weight = self.codes.to(torch.float32) * self.scale
        return F.linear(fake_quantize(x, "int8", granularity="token"), weight, self.bias)


def decoding(model):
    """Replace every quantized layer of an already quantized copy."""
    for name, layer in list(model.module.named_modules()):
        if isinstance(layer, QuantLinear):
            model.module.set_submodule(name, DecodingLinear(layer))
    return model


def naive(model, data, conditions, prompts) -> dict:
    """One configuration after the other, one condition after the other, the prompts encoded every time."""
    found = {}
    for config in CONFIGS:
        quantized = decoding(edgelib.quantize(model, config))
        for condition in conditions:
            hits = []
            for _, images in data.batches(64):
                images = condition.apply(images, 0, None)
                vectors = quantized.class_vectors(data.class_names, prompts)
                hits.append((quantized.encode_images(images) @ vectors.T).argmax(dim=1))
                if config != "fp32":  # drift needs the baseline's features on the same images
                    model.encode_images(images)
            found[config, condition] = torch.cat(hits)
    return found


def main() -> None:
    """Print both times and their ratio."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    model, data = edgelib.load("scenes-clip"), edgelib.dataset("scenes", n=n)
    conditions = conditions_of(CORRUPTIONS, SEVERITIES)
    grid = Grid({"m": model}, variants_of("m", [], CONFIGS), conditions, data)
    start = time.perf_counter()
    slow = naive(model, data, conditions, ["a photo of a {}."])
    slow_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = sweep(grid, CellStore(folder), progress=False)
        fast_s = time.perf_counter() - start
    cells = rows.groupby(["config", "corruption", "severity"], sort=False).prediction
    same = [(slow[c, k].numpy() == cells.get_group((c, k.corruption, k.severity))).mean() for c, k in slow]
    print(f"{len(slow)} cells of {n} images, {torch.get_num_threads()} threads")
    print(f"naive {slow_s:.1f} s, sweep {fast_s:.1f} s")
    print(f"ratio {slow_s / fast_s:.1f}; equal predictions in {100 * min(same):.2f} % of the worst cell")


if __name__ == "__main__":
    main()
