"""Answers to questions about images against plain `generate` of transformers, one question after the other.

Run: python benchmarks/generation.py [images] [model]. Both decode greedily with a KV cache and give the same answers,
which is checked. The plain loop prepares and encodes the image with every question, as model cards show.
edgelib batches questions and encodes each image once. "In the model" is the share of the time that passes inside the
network's forward calls, vision tower included.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

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
        made = made[:, inputs["input_ids"].shape[1] if model.chats else 1 :]
        answers += model.text_of(made)
        tokens += made.shape[1]
    return answers, tokens


def timed(step) -> tuple[object, float]:
    began = time.perf_counter()
    found = step()
    return found, time.perf_counter() - began


def main(n_images: int = 40, name: str = "scenes-vlm") -> None:
    model, data = edgelib.load(name), edgelib.dataset(TASK, n=n_images)
    few = data.subset(range(4))
    one_by_one(model, few), generate(model, few, max_new_tokens=NEW_TOKENS)  # warm up
    vision = [model.module.base_model.visual] if hasattr(model.module.base_model, "visual") else []
    plain, ours, inside = [], [], []
    for _ in range(REPEATS):  # taking turns, so that a busy machine slows both
        (answers, tokens), seconds = timed(lambda: one_by_one(model, data))
        plain.append(tokens / seconds)
        with Clock([model.module, *vision]) as clock:
            rows, seconds = timed(lambda: generate(model, data, max_new_tokens=NEW_TOKENS, batch_size=BATCH))
        ours.append(int(rows["tokens"].sum()) / seconds)
        inside.append(clock.seconds / seconds)
        same = sum(a == b for a, b in zip(answers, rows["prediction"], strict=True))
    print(f"{name}, {len(data)} questions about {n_images} images, {torch.get_num_threads()} threads")
    print(f"equal answers: {same} of {len(data)}")
    print(f"plain generate, one by one: {statistics.median(plain):8.1f} tokens/s")
    print(f"edgelib, batches of {BATCH}:    {statistics.median(ours):8.1f} tokens/s")
    print(f"speed-up: {statistics.median(o / p for o, p in zip(ours, plain, strict=True)):.1f}x")
    print(f"in the model: {100 * statistics.median(inside):.0f} % of edgelib's time")


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))
