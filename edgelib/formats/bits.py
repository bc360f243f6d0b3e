"""Codes of a few bits, packed into bytes: row by row for files, channel by channel for caches."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def packed_width(width: int, bits: int) -> int:
    """Return the bytes of a row of `width` codes of `bits` bits."""
    return -(-width * bits // 8)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes [rows, width] into uint8 [rows, packed_width(width, bits)]; each row starts at its own byte.

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


def codes_in_whole_bytes(bits: int) -> int:
    """Return how many codes of `bits` bits, up to 8, fill bytes without a rest: 1 of 8 bits, 2 of 4, 4 of 6."""
    return 8 // math.gcd(bits, 8)


def pack_channels(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [..., D], of one byte each, into bytes [..., D * bits / 8] on the device where they are.

    `codes_in_whole_bytes(bits)` divides D. 8 bits stay as they are; of 4 bits the first half of the channels lies
    below, the second above; all others follow one another from the lowest bit upwards.
    """
    if bits == 8:
        return codes
    if bits == 4:
        low, high = codes.view(torch.uint8).chunk(2, -1)
        return (high << 4).bitwise_or_(low & 15)
    count = codes_in_whole_bytes(bits)
    low = codes.view(torch.uint8).long().bitwise_and_(2**bits - 1).unflatten(-1, (-1, count))
    word = (low << bits * torch.arange(count, device=codes.device)).sum(-1, keepdim=True)
    return (word >> 8 * torch.arange(count * bits // 8, device=codes.device)).to(torch.uint8).flatten(-2)


def unpack_channels(packed: Tensor, bits: int, signed: bool) -> Tensor:
    """Return the codes [..., D] that `pack_channels` packed: int8, the highest bit being the sign, or else uint8."""
    if bits == 8:
        return packed
    if bits == 4 and signed:
        pairs = packed.view(torch.int8)
        return torch.cat([pairs << 4, pairs], -1).bitwise_right_shift_(4)
    if bits == 4:
        return torch.cat([packed & 15, packed >> 4], -1)
    count = codes_in_whole_bytes(bits)
    parts = packed.long().unflatten(-1, (-1, count * bits // 8))
    word = (parts << 8 * torch.arange(count * bits // 8, device=packed.device)).sum(-1, keepdim=True)
    codes = (word >> bits * torch.arange(count, device=packed.device)).bitwise_and_(2**bits - 1).flatten(-2)
    if not signed:
        return codes.to(torch.uint8)
    return codes.bitwise_left_shift_(8 - bits).to(torch.uint8).view(torch.int8).bitwise_right_shift_(8 - bits)
