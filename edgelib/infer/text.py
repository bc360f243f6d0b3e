"""Text through a decoder: how probable each token was, and how far next-token distributions lie from a reference.

Rows are tokens; `divergence_summary` sums them up as `llama-perplexity --kl-divergence` of llama.cpp prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.ground.checks import whole_number
from edgelib.observe.calibrate import module_of
from edgelib.observe.distance import divergence

TOKEN_COLUMNS = ("passage", "position", "token", "nll", "top", "right")
REFERENCE_COLUMNS = ("reference_nll", "kl", "same_top", "flip")
FLIPS = ("none", "harmful", "corrective", "neutral")
PERCENTILES = {"median": 50.0, "p99": 99.0, "p99.9": 99.9}


@torch.no_grad()
def token_rows(
    model, passages: Sequence[Tensor], *, reference=None, skip: int = 0, batch_size: int = 8
) -> pd.DataFrame:
    """Return one row per predicted token of token passages: TOKEN_COLUMNS, and with a reference REFERENCE_COLUMNS.

    model, reference: a GenerativeModel, whose decoder reads text alone, or a module of transformers that gives logits
    for input_ids. passages: token ids, int64 [T] each, T at least 2; each is read by itself, so no passage depends on
    another, and those of one length run `batch_size` at a time. skip: tokens of each passage that are only context
    beside the first (llama.cpp takes half of each).

    passage, position: of the predicted token, from 0; token: its id. nll: -log p(token), nats; top: the most probable
    id; right: whether it is the token. kl: KL(reference || model) of the two distributions, nats, at least 0; same_top:
    whether they name the same most probable token. flip: "harmful" where only the reference is right, "corrective"
    where only the model is, "neutral" where both are wrong in different ways, else "none".

    Raises EdgelibError for passages that are too short, not integers, or hold ids that the model does not know, for
    models of two vocabularies, and for NaN in the scores.
    """
    passages = _checked(passages, model, whole_number(skip, "skip", at_least=0))
    parts = []
    for index, ids in _batches(passages, whole_number(batch_size, "batch_size", at_least=1)):
        scores = _log_probabilities(model, ids)
        parts.append(_rows(index, ids, scores, None if reference is None else _log_probabilities(reference, ids), skip))
    rows = pd.concat(parts).sort_values(["passage", "position"], kind="stable", ignore_index=True)
    return rows


def passage_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per passage of `token_rows`: passage, tokens, nll (the mean, nats), perplexity (its exponential).

    With a reference also kl (mean, nats), same_top (share), harmful, corrective and neutral (shares of flips).
    """
    by = rows.groupby("passage", sort=True)
    found = by.agg(tokens=("nll", "size"), nll=("nll", "mean"))
    found["perplexity"] = np.exp(found["nll"])
    if "kl" in rows:
        found = found.join(by.agg(kl=("kl", "mean"), same_top=("same_top", "mean")))
        for kind in FLIPS[1:]:
            found[kind] = (rows["flip"] == kind).groupby(rows["passage"]).mean()
    return found.reset_index()


def perplexity(rows: pd.DataFrame) -> float:
    """Return exp of the mean nll over all rows of `token_rows`; at least 1, lower is better."""
    return float(np.exp(_some(rows)["nll"].mean()))


def divergence_summary(rows: pd.DataFrame) -> dict[str, float]:
    """Return what llama.cpp prints of a model beside its reference, from `token_rows` with a reference.

    tokens; perplexity, reference_perplexity and log_ratio, the logarithm of the first over the second. kl_mean,
    kl_median, kl_p99, kl_p99.9, kl_max: of KL(reference || model) in nats, percentiles interpolated between order
    statistics as numpy and llama.cpp do. same_top: share of tokens for which both name the same most probable one.
    dp_mean, dp_rms: mean and root mean square of p_model - p_reference of the right token, in [-1, 1]. harmful,
    corrective, neutral: shares of tokens at which the most probable one changes, by who is right.
    Raises EdgelibError for rows without a reference.
    """
    if "kl" not in _some(rows):
        raise EdgelibError("these rows have no reference to diverge from: pass token_rows(model, ..., reference=model)")
    kl, moved = rows["kl"].to_numpy(), np.exp(-rows["nll"]) - np.exp(-rows["reference_nll"])
    return {
        "tokens": len(rows),
        "perplexity": perplexity(rows),
        "reference_perplexity": float(np.exp(rows["reference_nll"].mean())),
        "log_ratio": float(rows["nll"].mean() - rows["reference_nll"].mean()),
        "kl_mean": float(kl.mean()),
        **{f"kl_{name}": float(np.percentile(kl, q)) for name, q in PERCENTILES.items()},
        "kl_max": float(kl.max()),
        "same_top": float(rows["same_top"].mean()),
        "dp_mean": float(moved.mean()),
        "dp_rms": float(np.sqrt(np.square(moved).mean())),
        **{kind: float((rows["flip"] == kind).mean()) for kind in FLIPS[1:]},
    }


def cut_passages(ids: Tensor | Sequence[int], length: int) -> list[Tensor]:
    """Return the pieces of `length` tokens, int64 [length], that a long text of ids gives; the rest is left out.

    Raises EdgelibError for a text that is shorter than one piece.
    """
    ids, length = torch.as_tensor(ids, dtype=torch.int64).flatten(), whole_number(length, "length", at_least=2)
    if len(ids) < length:
        raise EdgelibError(f"a text of {len(ids)} tokens gives no passage of {length}: take shorter ones, or more text")
    return list(ids[: len(ids) // length * length].view(-1, length))


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    if not len(rows):
        raise EdgelibError("there is no token to sum up: pass at least one row of token_rows")
    return rows


def _checked(passages: Sequence[Tensor], model, skip: int) -> list[Tensor]:
    if isinstance(passages, str) or not len(passages):
        raise EdgelibError(
            "passages are token ids, a tensor each, such as cut_passages(tokenizer(text).input_ids, 256)"
        )
    made = [torch.as_tensor(ids) for ids in passages]
    known = module_of(model).config.get_text_config().vocab_size
    for i, ids in enumerate(made):
        if ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise EdgelibError(f"passage {i} is {ids.dtype} {list(ids.shape)}; token ids are int64 [T]")
        if len(ids) < skip + 2:
            raise EdgelibError(
                f"passage {i} has {len(ids)} tokens; with skip={skip} it takes {skip + 2} to predict one"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= known:
            raise EdgelibError(
                f"passage {i} holds token {int(ids.max() if ids.min() >= 0 else ids.min())}; the model knows 0 to "
                f"{known - 1}: use its own tokenizer"
            )
    return [ids.to(torch.int64) for ids in made]


def _batches(passages: list[Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices [B] and ids [B, T] of passages of one length."""
    lengths = torch.tensor([len(ids) for ids in passages])
    for length in lengths.unique():
        for index in (lengths == length).nonzero()[:, 0].split(size):
            yield index, torch.stack([passages[i] for i in index.tolist()])


def _log_probabilities(model, ids: Tensor) -> Tensor:
    """log p of every next token [B, T - 1, V], float32 on the CPU."""
    module = module_of(model)
    device = next(module.parameters()).device
    logits = module(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
    if not torch.isfinite(logits).all():
        name = getattr(model, "name", type(module).__name__)
        raise EdgelibError(
            f"{name}: scores of tokens are NaN or infinite; the weights are damaged or a 16-bit format overflows: "
            "reload it, or try bf16"
        )
    return logits.float().log_softmax(dim=-1).cpu()


def _rows(index: Tensor, ids: Tensor, scores: Tensor, anchor: Tensor | None, skip: int) -> pd.DataFrame:
    passage, position = torch.meshgrid(index, torch.arange(1, ids.shape[1]), indexing="ij")
    right = ids[:, 1:]
    found = {"passage": passage, "position": position, "token": right}
    found |= _read(scores, right)
    if anchor is not None:
        if anchor.shape != scores.shape:
            raise EdgelibError(
                f"the reference knows {anchor.shape[-1]} tokens and the model {scores.shape[-1]}: they need one "
                "vocabulary"
            )
        theirs = _read(anchor, right)
        same = found["top"] == theirs["top"]
        flip = torch.where(same, 0, torch.where(theirs["right"], 1, torch.where(found["right"], 2, 3)))
        found |= {"reference_nll": theirs["nll"], "kl": divergence(anchor, scores), "same_top": same, "flip": flip}
    table = pd.DataFrame({key: value[:, skip:].flatten().numpy() for key, value in found.items()})
    if anchor is not None:
        table["flip"] = np.array(FLIPS)[table["flip"]]
    return table


def _read(scores: Tensor, right: Tensor) -> dict[str, Tensor]:
    top = scores.argmax(dim=-1)
    return {"nll": -scores.gather(-1, right[..., None])[..., 0], "top": top, "right": top == right}
