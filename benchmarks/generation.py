"""Answers to questions about images against plain `generate` of transformers, one question after the other.

Both decode greedily with a KV cache and give the same answers, which is checked. The plain loop prepares and encodes
the image with every question, as model cards show.
edgelib batches questions and encodes each image once. "In the model" is the share of the time that passes inside the
network's forward calls, vision tower included.

    python benchmarks/generation.py [--quick] [images=40] [model=scenes-vlm] [repeats=3]
"""

from __future__ import annotations

import statistics
import time

from goals import Table, goal, machine, script

import edgelib
from edgelib.infer.generate import generate

TASK, NEW_TOKENS, BATCH, REPEATS = "scenes-pope", 8, 128, 3


class Clock:
    """Seconds spent inside some modules while it is attached to them."""

    def __init__(self, modules):
        self.seconds, self.modules = 0.0, modules

    def __enter__(self):
        self.hooks = [m.register_forward_pre_hook(self._start) for m in self.modules]
        self.hooks += [m.register_forward_hook(self._stop) for m in self.modules]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _start(self, *_):
        self.began = time.perf_counter()

    def _stop(self, *_):
        self.seconds += time.perf_counter() - self.began


def one_by_one(model, data) -> tuple[list[str], int]:
    """Answers of `generate` for each question alone, and how many tokens they took."""
    answers, tokens = [], 0
    for question, image in zip(data.rows["question"], data.rows["image"], strict=True):
        inputs = model.inputs(data.images[[image]], [question])
        made = model.module.generate(**inputs, max_new_tokens=NEW_TOKENS)
        made = made[:, 1 if model.image_token is None else inputs["input_ids"].shape[1] :]
        answers += model.text_of(made)
        tokens += made.shape[1]
    return answers, tokens


def timed(step) -> tuple[object, float]:
    began = time.perf_counter()
    found = step()
    return found, time.perf_counter() - began


def main(images: int = 40, model: str = "scenes-vlm", repeats: int = REPEATS) -> None:
    """Print tokens per second of both ways, run by run, and their medians."""
    loaded, data = edgelib.load(model), edgelib.dataset(TASK, n=images)
    few = data.subset(range(4))
    one_by_one(loaded, few), generate(loaded, few, max_new_tokens=NEW_TOKENS)  # warm up
    vision = [loaded.module.base_model.visual] if hasattr(loaded.module.base_model, "visual") else []
    print(f"{machine()}\n{model}, {len(data)} questions about {images} images, tokens per second")
    table = Table(
        ("", 12, ""),
        ("one by one", 12, ".1f"),
        (f"batch {BATCH}", 12, ".1f"),
        ("ratio", 8, ".1f"),
        ("in the model", 15, ".0%"),
        ("equal answers", 16, ".1%"),
    )
    rows = []
    for repeat in range(repeats):  # taking turns, so that a busy machine slows both
        (answers, tokens), seconds = timed(lambda: one_by_one(loaded, data))
        plain = tokens / seconds
        with Clock([loaded.module, *vision]) as clock:
            said, seconds = timed(lambda: generate(loaded, data, max_new_tokens=NEW_TOKENS, batch_size=BATCH))
        ours = int(said["tokens"].sum()) / seconds
        same = sum(a == b for a, b in zip(answers, said["prediction"], strict=True)) / len(data)
        rows.append((plain, ours, ours / plain, clock.seconds / seconds, same))
        table.row(f"run {repeat + 1}", *rows[-1])
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    table.row("median", *medians)
    goal("tokens/s, batches over one by one", medians[2], at_least=4)
    goal("equal answers", 100 * min(row[-1] for row in rows), at_least=100, unit="%")


if __name__ == "__main__":
    script(main, images=8, repeats=1)
