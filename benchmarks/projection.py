"""What a large grid would take: CLIP ViT-B/32 on 10,000 images of CIFAR's size, on one worker and on 64.

Reading, corrupting and building are timed here on small runs of that very model (its dimensions, random weights), and
so is the forward on this machine's cores. The forward on a GPU is projected by the roofline of `edgelib.devices`, times
what simulated rounding adds here. Nothing of it was measured on 64 workers. Before that, a grid of the embedded model
is predicted, then run.

    python benchmarks/projection.py [--quick] [images=10000] [gpu=h100-sxm] [many=64] [check=480]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from goals import Table, goal, machine, script

import edgelib
from edgelib.corruptions import CORRUPTIONS
from edgelib.data.labelled import Dataset
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import encoder
from edgelib.devices.table import devices
from edgelib.devices.workload import encode_work
from edgelib.study.classifier_grid import ClassifierGrid, conditions_of, variants_of
from edgelib.study.plan.makespan import plan
from edgelib.study.plan.probe import RUNNING, probe
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

NAME, BATCH = "clip-vit-base-patch32", 128
CONFIGS = ("fp32", "w8a8-minmax", "w8a8-mse", "w4a8-minmax", "w4a8-minmax-g32", "w3a8-minmax", "fp8", "nvfp4", "mxfp4")
CONFIGS += ("w4a16-minmax-g128",)


def large_grid(images: int) -> ClassifierGrid:
    """Ten configurations x (clean and 19 corruptions x 5 severities) x random images of 32 x 32 pixels."""
    small = edgelib.load("scenes-clip")
    seen = replace(small.preprocess, resize=(224, 224), crop=None)
    model = replace(small, name=NAME, module=edgelib.architecture(NAME, device="cpu"), preprocess=seen)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8))
    rows = pd.DataFrame({"item": [f"image {i}" for i in range(images)], "label": rng.integers(0, 10, images)})
    data = Dataset("random", rows, tuple(f"class {i}" for i in range(10)), pixels)
    published = [name for name, one in CORRUPTIONS.items() if "cifar-c" in one.levels][:19]
    conditions = conditions_of(published, [1, 2, 3, 4, 5])
    return ClassifierGrid(
        {"m": model}, variants_of("m", [], CONFIGS), conditions, data, table="cifar-c", batch_size=BATCH
    )


def places_of(grid: ClassifierGrid) -> dict:
    """Every variant lacks every place."""
    return {condition: list(grid.variants) for condition in grid.conditions}


def shown(table: Table, what: str, made) -> None:
    """A row: the seconds of a plan by part, and what binds it."""
    parts = [
        sum(v for k, v in made.parts.items() if k.startswith(word))
        for word in ("reading", "corrupting", "running", "building")
    ]
    waiting = made.parts["waiting for the last task"]
    table.row(what, made.seconds, *parts, waiting, made.longest, f"  {made.binds}, {made.share:.0%}")


def checked(images: int, table: Table) -> float:
    """Measured over predicted seconds of a grid of the embedded model, in this process."""
    some = ["gaussian_noise", "motion_blur", "fog", "jpeg_compression"]
    data, model = edgelib.dataset("scenes", n=images), edgelib.load("scenes-clip")
    configs = ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"]
    grid = ClassifierGrid(
        {"m": model}, variants_of("m", [], configs), conditions_of(some, [1, 3, 5]), data, batch_size=32
    )
    costs = probe(grid, places_of(grid), 1)
    made = plan(costs.alone, 1, building=costs.building)
    shown(table, f"embedded, {images} images", made)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sweep(grid, CellStore(folder), progress=False)
        took = time.perf_counter() - start
    table.row("  the same, measured", took)
    return took / made.seconds


def main(images: int = 10_000, gpu: str = "h100-sxm", many: int = 64, check: int = 480) -> None:
    """Print the plans and what binds each."""
    print(f"{machine()}\nseconds of wall time by part, on a mean worker; all projected but the row that says measured")
    heads = ("seconds", "reading", "corrupting", "running", "building", "waiting", "longest")
    table = Table(("", 34, ""), *((head, 11, ".1f") for head in heads), ("  binds", 30, ""))
    ratio = checked(check, table)
    grid = large_grid(images)
    costs = probe(grid, places_of(grid), 1)
    device, size = devices()[gpu], encode_work(encoder(NAME), 32, batch=BATCH, other_bits=32)
    found = projector(published_points(devices()))(size, device, "fp32", "fp32", step="encode", runtime="eager")
    here = {name: sum(task[name] for task in costs.alone) for name in costs.alone[0]}
    forwards = len(CONFIGS) * len(grid.conditions) * images
    simulated = slower(grid)
    each = found.ms / 1e3 / BATCH * simulated
    print(
        f"forward of an image: {1e3 * here[RUNNING] / forwards:.3g} ms here, {1e3 * each:.3g} ms projected on {gpu}: ",
        end="",
    )
    print(f"{found.ms / BATCH:.3g} ms by its roofline, times {simulated:.2f} for simulated rounding, as here")
    share = each * forwards / here[RUNNING]
    tasks = [task | {RUNNING: share * task[RUNNING]} for task in costs.alone]
    for what, of in ((f"{NAME[:13]}, core", costs.alone), (f"{NAME[:13]}, {gpu}", tasks)):
        for workers in (1, many):
            shown(table, f"{what} x {workers}", plan(of, workers, building=costs.building))
    goal("predicted seconds of a grid over measured", max(ratio, 1 / ratio), at_most=1.25)


def slower(grid: ClassifierGrid) -> float:
    """Time of a forward in a simulated configuration over that in fp32, on this machine."""
    model, images = grid.models["m"], next(grid.data.batches(8))[1]
    made = {config: edgelib.quantize(model, config) for config in ("fp32", "w4a8-minmax")}
    times: dict[str, list] = {config: [] for config in made}
    for _ in range(5):  # in turn, so that whatever else the machine does meets both alike
        for config, one in made.items():
            start = time.perf_counter()
            one.encode_images(images)
            times[config].append(time.perf_counter() - start)
    return min(times["w4a8-minmax"]) / min(times["fp32"])


if __name__ == "__main__":
    script(main, images=256, check=48)
