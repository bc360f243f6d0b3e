"""Passages of running text in the public domain, for decoders that are compared without questions.

`passages.csv` beside this file: four and two novels of Jane Austen (1811 to 1817, as CRAN's janeaustenr prints them)
and the essays of the Jargon File 4.4.7 (2003), which its authors put into the public domain. "test" and "calibration"
share no book and no essay; both are half fiction, half technical prose, in turn, so that any number of the first is.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.ground.checks import whole_number


@cache
def texts() -> dict[str, tuple[str, ...]]:
    """Every passage by its split, in the order of the file; about 1,400 characters each."""
    text = files("edgelib.data").joinpath("passages.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return {
        split: tuple(r["text"] for r in rows if r["split"] == split)
        for split in dict.fromkeys(r["split"] for r in rows)
    }


def passages(split: str, tokenizer, n: int = 16, length: int = 256) -> list[Tensor]:
    """Return the first `n` passages of a split, the first `length` tokens of each, int64 [length].

    split: "test" or "calibration". tokenizer: of transformers; no token is added in front.
    Raises EdgelibError for another split, more passages than there are, and a length that a passage does not reach.
    """
    known = choose(texts(), split, "split of the passages")
    n, length = whole_number(n, "n", at_least=1), whole_number(length, "length", at_least=2)
    if n > len(known):
        raise EdgelibError(f"there are {len(known)} {split} passages, got n={n}; ask for fewer")
    found = [torch.as_tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in known[:n]]
    short = min(map(len, found))
    if short < length:
        raise EdgelibError(f"the shortest of these passages has {short} tokens, got length={length}; take at most that")
    return [ids[:length].to(torch.int64) for ids in found]
