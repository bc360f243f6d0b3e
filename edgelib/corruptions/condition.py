"""A state of the images: clean, or a corruption at a severity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.corruptions import CORRUPTIONS, TABLES, corrupt
from edgelib.errors import EdgelibError, choose


@dataclass(frozen=True)
class Condition:
    """A state of the images: a corruption at a severity, or clean (severity 0)."""

    corruption: str = "clean"
    severity: int = 0

    def apply(self, images: Tensor, seed: int, table: str | None) -> Tensor:
        """uint8 [N, 3, H, W] -> the same images in this condition."""
        if self.severity == 0:
            return images
        return corrupt(images, self.corruption, self.severity, seed=seed, table=table)


def condition(name: str) -> Condition:
    """The condition called "clean" or "<corruption>:<severity>"; raises EdgelibError for any other name."""
    corruption, _, severity = name.partition(":")
    if name == "clean":
        return Condition()
    choose(CORRUPTIONS, corruption, "corruption")
    if severity not in tuple("12345"):
        raise EdgelibError(f'condition {name!r} has no severity from 1 to 5; write "clean" or "{corruption}:3"')
    return Condition(corruption, int(severity))


def condition_of(corruption: str | None, severity: int, table: str | None) -> Condition:
    """The condition that a corruption and a severity from 0 to 5 mean; severity 0 is clean, whatever the corruption.

    Raises EdgelibError for an unknown corruption, severity or table, and a severity of no corruption.
    """
    if corruption is None and severity != 0:
        raise EdgelibError(f"severity {severity!r} of no corruption: name one, or leave severity at 0 for clean images")
    if corruption is not None:
        corrupt(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), corruption, severity, table=table)  # checks the names
    if table is not None:
        choose(dict.fromkeys(TABLES), table, "severity table")
    return Condition(corruption, int(severity)) if corruption and severity else Condition()
