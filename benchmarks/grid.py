"""The whole grid against the naive loop: corrupt again for every configuration, decode weights in every forward.

The naive loop is timed three times: with the public corruption package, image by image, where it is installed (see
corruptions.py); with edgelib's corruptions, image by image; and with them in batches, which leaves only what sharing
the work saves. The last two compute the sweep's predictions, which is checked.

    python benchmarks/grid.py [--quick] [images=256] [executors=serial,thread,process]
"""

from __future__ import annotations

import tempfile
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from corruptions import import_peer
from goals import Table, goal, machine, script
from torch import Tensor, nn

import edgelib
from edgelib.formats.table import fake_quantize
from edgelib.quant.quantize import QuantLinear
from edgelib.study.classifier_grid import ClassifierGrid, conditions_of, variants_of
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

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


def by_peer(peer, condition, images: Tensor) -> Tensor:
    """The same condition by imagecorruptions, whose grey levels differ from ours."""
    if condition.corruption == "clean":
        return images
    pictures = images.permute(0, 2, 3, 1).numpy()
    made = [np.uint8(peer(picture, condition.severity, condition.corruption)) for picture in pictures]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def one_by_one(condition, images: Tensor) -> Tensor:
    return torch.cat([condition.apply(image, 0, None) for image in images.split(1)])


def naive(model, data, conditions, prompts, corrupted) -> dict:
    """One configuration after the other, one condition after the other, the prompts encoded every time."""
    found = {}
    for config in CONFIGS:
        quantized = decoding(edgelib.quantize(model, config))
        for condition in conditions:
            hits = []
            for _, images in data.batches(64):
                images = corrupted(condition, images)
                vectors = quantized.class_vectors(data.class_names, prompts)
                hits.append((quantized.encode_images(images) @ vectors.T).argmax(dim=1))
                if config != CONFIGS[0]:  # drift needs the baseline's features on the same images
                    model.encode_images(images)
            found[config, condition] = torch.cat(hits)
    return found


def timed(job) -> tuple[float, object]:
    """Seconds of wall time, and what the job returned."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def swept(grid: ClassifierGrid, executor: str):
    """The grid from nothing, into a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        return sweep(grid, CellStore(folder), executor=executor, progress=False)


def agreement(slow: dict, rows) -> float:
    """Percent of equal predictions in the cell that agrees least."""
    cells = rows.groupby(["config", "corruption", "severity"], sort=False).prediction
    return 100 * min((slow[c, k].numpy() == cells.get_group((c, k.corruption, k.severity))).mean() for c, k in slow)


def main(images: int = 256, executors: str = "serial,thread,process") -> None:
    """Print each time and its ratio to the naive loops."""
    model, data = edgelib.load("scenes-clip"), edgelib.dataset("scenes", n=images)
    conditions = conditions_of(CORRUPTIONS, SEVERITIES)
    grid = ClassifierGrid({"m": model}, variants_of("m", [], CONFIGS), conditions, data, batch_size=32)
    prompts = ["a photo of a {}."]
    ways = {"image by image": one_by_one, "batched": lambda condition, images: condition.apply(images, 0, None)}
    if (peer := import_peer()) is not None:
        ways = {"imagecorruptions": partial(by_peer, peer)} | ways
    print(f"{machine()}\n{len(CONFIGS) * len(conditions)} cells of {images} images, wall seconds from nothing")
    ratios = [(f"x {name}", len(name) + 6, ".1f") for name in ways]
    table, loops = Table(("", 26, ""), ("seconds", 10, ".1f"), *ratios, ("% equal", 10, ".2f")), {}
    for name, way in ways.items():
        loops[name], predictions = timed(lambda way=way: naive(model, data, conditions, prompts, way))
        table.row(f"naive, {name}", loops[name])
    found, equal = [], []
    for executor in executors.split(","):
        seconds, rows = timed(lambda executor=executor: swept(grid, executor))
        equal.append(agreement(predictions, rows))  # of the last way, in batches; in the cell that agrees least
        found.append(loops["batched"] / seconds)
        table.row(f"sweep, {executor}", seconds, *(loop / seconds for loop in loops.values()), equal[-1])
    goal("as fast as the naive loop in batches", max(found), at_least=5)
    goal("equal predictions, worst cell", min(equal), at_least=100, unit="%")


if __name__ == "__main__":
    script(main, images=24, executors="serial,thread")
