"""Codes of a few bits, packed into bytes: little-endian, each row starting at a byte of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_width(width: int, bits: int) -> int:
    """Return the bytes of a row of `width` codes of `bits` bits."""
    return -(-width * bits // 8)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes [rows, width] into uint8 [rows, packed_width(width, bits)].

    The lowest `bits` bits of each code, as two's complement, follow one another from the lowest bit of a byte upwards,
    so the first of two 4-bit codes is the low nibble, as in ONNX's MatMulNBits and in compressed-tensors.
    """
    low = codes.cpu().to(torch.uint8).numpy()
    stream = np.unpackbits(low[..., None], axis=-1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(len(low), -1), axis=-1, bitorder="little"))


def unpack_bits(packed: Tensor, bits: int, width: int, signed: bool) -> Tensor:
    """Return the codes [rows, width] that `pack_bits` packed, int8 if signed else uint8."""
    stream = np.unpackbits(packed.cpu().numpy(), axis=-1, count=width * bits, bitorder="little")
    low = np.packbits(stream.reshape(len(packed), width, bits), axis=-1, bitorder="little")[..., 0]
    codes = torch.from_numpy(low)
    if not signed:
        return codes
    sign = 1 << (bits - 1)
    return ((codes ^ sign).to(torch.int16) - sign).to(torch.int8)
