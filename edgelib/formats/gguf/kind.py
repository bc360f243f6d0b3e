"""What a GGUF type is: blocks of so many values, the parts of their bytes, encode and decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.gguf.layout import half_values


class Part(NamedTuple):
    """So many bytes of a block, and what they are called in ggml."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Kind(ABC):
    """A GGUF type: its name, bits of a code, values of a block, and the type that llama.cpp falls back to.

    fallback: what a tensor gets whose rows this type's block does not divide, "" for f16 at once.
    """

    name: str
    bits: int
    block: int
    fallback: str = ""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The parts of a block, in the order of its bytes."""

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return sum(part.bytes for part in self.parts)

    @abstractmethod
    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts uint8 [blocks, bytes] of blocks x float32 [blocks, block].

        importance: of each value, in x's shape. row_power: the mean square [blocks] of the row that a block is of.
        """

    @abstractmethod
    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values float32 [blocks, block] of parts uint8 [blocks, bytes]."""

    def packed(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> Tensor:
        """Return the bytes uint8 [blocks, bytes] of blocks x [blocks, block]."""
        made = self.encode(x, importance, row_power)
        if not all(torch.isfinite(half_values(made[name])).all() for name in ("d", "m", "dmin") if name in made):
            raise EdgelibError(
                f"values up to {float(x.abs().max()):.3g} overflow the half-precision scales of {self.name}; "
                "rescale the tensor, and its importance if it has one, or keep it in bf16"
            )
        return torch.cat([made[part.name].reshape(len(x), part.bytes) for part in self.parts], -1)

    def unpacked(self, packed: Tensor) -> Tensor:
        """Return the values float32 [blocks, block] of bytes uint8 [blocks, bytes]."""
        cut = packed.split([part.bytes for part in self.parts], -1)
        return self.decode({part.name: tensor for part, tensor in zip(self.parts, cut, strict=True)})
