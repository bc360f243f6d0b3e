"""A study without models: rows come from a formula, and places can be told to fail as real ones do.

Run: python toy_study.py <folder of the store> <executor> <trouble of every place>.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep


@dataclass(frozen=True)
class Toy(Study[str, int, None]):
    """Cells of variants at places 0, 1, ...; item i of place p has the score sin(i + 10 p) of its variant.

    trouble: by place, what happens there: "raise", "memory" (above batches of 2), "die once", "slow".
    folder: where it is noted what happened once.
    """

    places: int = 4
    n: int = 6
    variants: tuple[str, ...] = ("a", "b")
    trouble: dict = field(default_factory=dict, hash=False)
    folder: str = ""
    batch_size: int = field(default=8, compare=False)
    cut: int = 0
    start: int = 0

    def cells(self):
        """Variant by variant."""
        for variant in self.variants:
            for place in range(self.places):
                yield variant, place

    def spec(self, variant, place):
        """Trouble is no part of it: it must not change what a cell holds."""
        return {"code": "toy", "variant": variant, "place": place, "n": self.n}

    def columns(self, variant, place):
        """Both."""
        return {"variant": variant, "place": place}

    def module(self, variant):
        """Next to nothing."""
        return nn.Linear(1, 1)

    def build(self, group):
        """Nothing."""

    def shards(self, place):
        """Of `cut` items."""
        starts = range(0, self.n, self.cut or self.n)
        return [(s, min(s + self.cut, self.n)) for s in starts] if len(starts) > 1 else []

    def part(self, start, stop):
        """The items from start on."""
        return replace(self, n=stop - start, start=start, cut=0)

    def items(self, place):
        """As many everywhere."""
        return self.n

    def evaluate(self, built, place, todo):
        """Trouble first, then rows."""
        self._suffer(place, todo)
        items = np.arange(self.start, self.start + self.n)
        rows = {"item": [f"item {i}" for i in items], "correct": items % 2 == 0}
        return {v: pd.DataFrame(rows | {"score": np.sin(items + 10 * place + ord(v)).astype(np.float32)}) for v in todo}

    def _suffer(self, place, todo):
        trouble = self.trouble.get(place)
        if trouble == "raise" and self.variants[0] in todo:
            raise EdgelibError("the scores of 3 images are NaN")
        if trouble == "memory" and self.batch_size > 2:
            raise MemoryError("out of memory")
        if trouble == "slow":
            time.sleep(0.2)
        if trouble == "hang":
            time.sleep(3600)
        if trouble == "die once":
            flag = Path(self.folder, f"died-{place}")
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    study = Toy(places=40, trouble=dict.fromkeys(range(40), sys.argv[3]))
    sweep(study, CellStore(sys.argv[1]), executor=sys.argv[2], workers=2, progress=False)
