"""A random part of the outcomes of a grid of classifiers, as a study of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from torch import nn

from edgelib.corruptions.condition import Condition
from edgelib.source import code_version
from edgelib.study.classifier_grid import Built, ClassifierGrid, Variant
from edgelib.study.protocol import Study


@dataclass(frozen=True)
class Drawn(Study[Variant, Condition, Built]):
    """Some variants of a grid on some images of each condition. Its cells name those images: none is one of the grid.

    positions: of the images that are evaluated in a condition, ascending; conditions that are not there are left out.
    kept: what was built last, which parts of one grid hand on to each other.
    """

    most_kept = ClassifierGrid.most_kept

    grid: ClassifierGrid
    variants: tuple[Variant, ...]
    positions: Mapping[Condition, np.ndarray]
    batch_size: int = field(default=256, compare=False)
    kept: list[Built] = field(default_factory=list, compare=False)

    def cells(self) -> Iterator[tuple[Variant, Condition]]:
        """Those of the grid that have a part here, in its order."""
        return (cell for cell in self.grid.cells() if cell[0] in self.variants and cell[1] in self.positions)

    def spec(self, variant: Variant, condition: Condition) -> dict:
        """The spec of the grid's cell, and which of its images are held."""
        held = hashlib.sha256(np.asarray(self.positions[condition], "<i8").tobytes()).hexdigest()
        return self.grid.spec(variant, condition) | {"drawn": held, "code": code_version(__name__)}

    def columns(self, variant: Variant, condition: Condition) -> dict:
        """As the grid's."""
        return self.grid.columns(variant, condition)

    def module(self, variant: Variant) -> nn.Module:
        """As the grid's."""
        return self.grid.module(variant)

    def build(self, group: Sequence[Variant]) -> Built:
        """As the grid does, unless it is there already."""
        if not (self.kept and {v.name for v in group} <= self.kept[0].models.keys()):
            self.kept.clear()
            self.kept.append(self.grid.build(group))
        return self.kept[0]

    def evaluate(self, built: Built, condition: Condition, todo: Sequence[Variant]) -> dict[Variant, pd.DataFrame]:
        """Rows of the images that are drawn for a condition."""
        data = self.grid.data.subset(self.positions[condition])
        return replace(self.grid, data=data, batch_size=self.batch_size).evaluate(built, condition, todo)

    def effort(self, condition: Condition, todo: Sequence[Variant]) -> float:
        """Outcomes to be computed."""
        return float(len(self.positions[condition]) * len(todo))
