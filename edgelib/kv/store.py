"""Where encoded tokens are kept: a tensor that grows, groups of tokens, or one store per modality.

Every store appends states [B, H, n, D], reads [B, H, T, D] back, selects rows of the batch (beams) and drops the oldest
tokens (sliding windows). A token is encoded once and its codes never change.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgelib.formats.bits import unpack_channels
from edgelib.kv.codec import Exact, Parts, affine_codes, affine_grid, affine_start


def nbytes(tensors) -> int:
    """Bytes that the elements of tensors take."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


class Rows:
    """Tokens one after the other, encoded by a codec."""

    def __init__(self, codec):
        self.codec, self.bound = codec, codec.bound
        self.parts: Parts | None = None

    @property
    def length(self) -> int:
        return 0 if self.parts is None else self.parts[0].shape[-2]

    def append(self, x: Tensor, valid: Tensor | None = None, chosen: Tensor | None = None) -> None:
        new = self.codec.encode(x)
        if self.parts is None:
            self.parts = tuple(part.contiguous() for part in new)
        else:
            self.parts = tuple(torch.cat(pair, -2) for pair in zip(self.parts, new, strict=True))

    def read(self, dtype: torch.dtype) -> Tensor:
        return self.codec.decode(self.parts, dtype)

    def select(self, rows: Tensor) -> None:
        if self.parts is not None:
            self.parts = tuple(part.index_select(0, rows) for part in self.parts)

    def keep_tokens(self, kept: Tensor) -> None:
        self.parts = tuple(part.index_select(-2, kept) for part in self.parts)

    def drop_first(self, n: int) -> None:
        if n > 0:
            self.parts = tuple(part[..., n:, :].clone() for part in self.parts)

    @property
    def nbytes(self) -> int:
        return nbytes(self.parts or ())


class Groups:
    """Integers with one start and step per channel for every `group` tokens (the keys of KIVI).

    Groups are counted from the newest token of a prompt back, so that padding on the left moves no border; it is left
    out of the range, too.
    """

    def __init__(self, bits: int, group: int):
        self.bits, self.group, self.bound = bits, group, math.inf
        self.parts: Parts | None = None  # codes [B, H, G * group, *], steps and starts [B, H, G, D]
        self.skipped = 0  # places in front that hold no token, or one that was dropped

    @property
    def length(self) -> int:
        return 0 if self.parts is None else self.parts[0].shape[-2] - self.skipped

    def append(self, x: Tensor, valid: Tensor | None = None, chosen: Tensor | None = None) -> None:
        missing = -x.shape[-2] % self.group
        mask = x.new_ones(len(x), x.shape[-2], dtype=torch.bool) if valid is None else valid
        x, mask = F.pad(x, (0, 0, missing, 0)), F.pad(mask, (missing, 0))
        groups = x.float().unflatten(-2, (-1, self.group))
        outside = ~mask.unflatten(-1, (-1, self.group))[:, None, :, :, None]
        empty = outside.all(-2)
        low = groups.masked_fill(outside, torch.inf).amin(-2).masked_fill(empty, 0)
        high = groups.masked_fill(outside, -torch.inf).amax(-2).masked_fill(empty, 0)
        start, step = affine_grid(low, high, self.bits)
        codes = affine_codes(groups, start.unsqueeze(-2), step.unsqueeze(-2), self.bits).flatten(-3, -2)
        if self.parts is None:
            self.parts, self.skipped = (codes, step, start), missing
        elif missing:
            raise AssertionError("only the first group of a prompt may be short")
        else:
            self.parts = tuple(torch.cat(pair, -2) for pair in zip(self.parts, (codes, step, start), strict=True))

    def read(self, dtype: torch.dtype) -> Tensor:
        codes, step, start = self.parts
        values = unpack_channels(codes, self.bits, signed=False).to(torch.float32).unflatten(-2, (-1, self.group))
        scale, low = step.float().unsqueeze(-2), affine_start(start, step, self.bits).unsqueeze(-2)
        return torch.addcmul(low, values, scale).flatten(-3, -2)[..., self.skipped :, :].to(dtype)

    def select(self, rows: Tensor) -> None:
        if self.parts is not None:
            self.parts = tuple(part.index_select(0, rows) for part in self.parts)

    def drop_first(self, n: int) -> None:
        if n <= 0:
            return
        self.skipped += n
        whole = self.skipped // self.group
        codes, step, start = self.parts
        self.parts = codes[..., whole * self.group :, :].clone(), step[..., whole:, :], start[..., whole:, :]
        self.skipped -= whole * self.group

    @property
    def nbytes(self) -> int:
        return nbytes(self.parts or ())


class Window:
    """The newest tokens as they are in front of a store that takes whole groups of them once they are old enough.

    At most `residual` + `group` - 1 tokens wait. A prompt fills the store at once, but for its last `residual` tokens.
    """

    def __init__(self, store: Rows | Groups, residual: int, group: int):
        self.store, self.residual, self.group, self.bound = store, residual, group, store.bound
        self.recent = Rows(Exact())
        self.valid: Tensor | None = None
        self.since = 0  # tokens after the prompt

    @property
    def length(self) -> int:
        return self.store.length + self.recent.length

    def append(self, x: Tensor, valid: Tensor | None = None, chosen: Tensor | None = None) -> None:
        valid = x.new_ones(len(x), x.shape[-2], dtype=torch.bool) if valid is None else valid
        self.since = 0 if self.valid is None else self.since + x.shape[-2]
        self.recent.append(x)
        self.valid = valid if self.valid is None else torch.cat([self.valid, valid], 1)
        # borders lie at whole groups after the end of the prompt, wherever it began
        old = self.recent.length - self.residual - self.since % self.group
        if old > 0:
            self.store.append(self.recent.parts[0][..., :old, :], self.valid[:, :old])
            self.recent.drop_first(old)
            self.valid = self.valid[:, old:]

    def read(self, dtype: torch.dtype) -> Tensor:
        if not self.store.length:
            return self.recent.read(dtype)
        if not self.recent.length:
            return self.store.read(dtype)
        return torch.cat([self.store.read(dtype), self.recent.read(dtype)], -2)

    def select(self, rows: Tensor) -> None:
        self.store.select(rows)
        self.recent.select(rows)
        self.valid = None if self.valid is None else self.valid.index_select(0, rows)

    def drop_first(self, n: int) -> None:
        stored = min(n, self.store.length)
        self.store.drop_first(stored)
        self.recent.drop_first(n - stored)
        self.valid = self.valid[:, n - stored :]

    @property
    def nbytes(self) -> int:
        return self.store.nbytes + self.recent.nbytes + nbytes([self.valid])


class ByModality:
    """Tokens of one modality encoded, the others as they are; a table [B, T] says where each one lies.

    Both stores hold a single row of tokens, so codecs with scales of their own are left aside: a static or per-token
    scale is the same wherever a token lies.
    """

    def __init__(self, codec):
        self.stores, self.bound = (Rows(codec), Rows(Exact())), codec.bound
        self.place: Tensor | None = None  # index within its store; of unrounded tokens, -1 - index

    @property
    def length(self) -> int:
        return 0 if self.place is None else self.place.shape[1]

    def append(self, x: Tensor, valid: Tensor | None = None, chosen: Tensor | None = None) -> None:
        flat, place = x.transpose(1, 2), torch.empty(chosen.shape, dtype=torch.int32, device=x.device)
        for store, mask, sign in zip(self.stores, (chosen, ~chosen), (1, -1), strict=True):
            tokens = flat[mask]  # [N, H, D]
            index = store.length + torch.arange(len(tokens), dtype=torch.int32, device=x.device)
            place[mask] = index if sign == 1 else -1 - index
            store.append(tokens.transpose(0, 1)[None])
        self.place = place if self.place is None else torch.cat([self.place, place], 1)

    def read(self, dtype: torch.dtype) -> Tensor:
        rounded, exact = (store.read(dtype)[0] for store in self.stores)
        index = torch.where(self.place >= 0, self.place, rounded.shape[1] - 1 - self.place)
        return torch.cat([rounded, exact], 1)[:, index.long()].transpose(0, 1)

    def select(self, rows: Tensor) -> None:
        if self.place is not None:
            self._keep(self.place.index_select(0, rows))

    def drop_first(self, n: int) -> None:
        if n > 0:
            self._keep(self.place[:, n:])

    def _keep(self, place: Tensor) -> None:
        """Forget the tokens that no row of the table names any more."""
        fresh = place.clone()
        for store, mask, sign in zip(self.stores, (place >= 0, place < 0), (1, -1), strict=True):
            named = place[mask] if sign == 1 else -1 - place[mask]
            used, index = named.unique(return_inverse=True)
            store.keep_tokens(used)
            fresh[mask] = (index if sign == 1 else -1 - index).int()
        self.place = fresh

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in self.stores) + nbytes([self.place])
