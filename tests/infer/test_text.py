"""Text through a decoder: perplexity and divergence against closed forms and the sums written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import kv_models
import numpy as np
import pytest
import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.infer.text import (
    FLIPS,
    cut_passages,
    divergence_summary,
    passage_rows,
    perplexity,
    token_rows,
)


class Table(nn.Module):
    """A decoder whose next token has fixed logits for each last token."""

    def __init__(self, logits):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32), requires_grad=False)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=self.table.shape[1]))

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.table[input_ids])


def passages(n: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 7, (4 + i % 3,), generator=generator) for i in range(n)]


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    rows = token_rows(Table(torch.zeros(7, 7)), passages())
    assert perplexity(rows) == pytest.approx(7) and len(rows) == sum(len(ids) - 1 for ids in passages())
    assert np.allclose(passage_rows(rows)["perplexity"], 7)


def test_a_model_diverges_from_itself_by_nothing():
    model = Table(torch.randn(7, 7))
    summary = divergence_summary(token_rows(model, passages(), reference=model))
    zero = ("kl_mean", "kl_median", "kl_p99", "kl_p99.9", "kl_max", "log_ratio", "dp_mean", "dp_rms", *FLIPS[1:])
    assert all(summary[key] == 0 for key in zero) and summary["same_top"] == 1


def test_two_tokens_have_the_divergence_of_two_coins():
    p, q = 0.8, 0.3
    fair, other = (Table(torch.tensor([[x, 1 - x]] * 2).log()) for x in (p, q))
    rows = token_rows(other, [torch.tensor([0, 0, 1, 0, 0])], reference=fair)
    summary = divergence_summary(rows)
    assert np.allclose(rows["kl"], p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), atol=1e-6)
    assert np.allclose(rows["nll"], [-math.log(q if t == 0 else 1 - q) for t in rows["token"]], atol=1e-6)
    # the right token is 0, 1, 0, 0: probabilities move by -0.5, +0.5, -0.5, -0.5
    assert summary["dp_rms"] == pytest.approx(0.5) and summary["dp_mean"] == pytest.approx(-0.25)
    assert summary["same_top"] == 0 and list(rows["flip"]) == ["harmful", "corrective", "harmful", "harmful"]
    expected = (3 * math.log(0.8 / 0.3) + math.log(0.2 / 0.7)) / 4
    assert summary["log_ratio"] == pytest.approx(expected, abs=1e-6)


def test_both_wrong_in_different_ways_is_neutral():
    one, two = Table([[9.0, 0.0, 0.0]] * 3), Table([[0.0, 9.0, 0.0]] * 3)
    assert list(token_rows(one, [torch.tensor([0, 2, 2])], reference=two)["flip"]) == ["neutral"] * 2
    assert list(token_rows(one, [torch.tensor([0, 2, 2])], reference=one)["flip"]) == ["none"] * 2


def test_percentiles_and_shares_are_those_of_the_rows():
    generator = torch.Generator().manual_seed(1)
    a, b = (Table(torch.randn(7, 7, generator=generator)) for _ in range(2))
    rows = token_rows(a, passages(40), reference=b)
    summary, kl = divergence_summary(rows), rows["kl"].to_numpy()
    assert summary["kl_p99"] == np.quantile(kl, 0.99) and summary["kl_p99.9"] == np.quantile(kl, 0.999)
    assert summary["kl_median"] == np.median(kl) and summary["kl_max"] == kl.max() and (kl > 0).all()
    assert summary["harmful"] + summary["corrective"] + summary["neutral"] == pytest.approx(1 - summary["same_top"])
    right, theirs = rows["right"].mean(), (rows["right"] & rows["same_top"] | (rows["flip"] == "harmful")).mean()
    assert right - theirs == pytest.approx(summary["corrective"] - summary["harmful"])
    by = passage_rows(rows)
    assert np.average(by["kl"], weights=by["tokens"]) == pytest.approx(summary["kl_mean"], rel=1e-5)
    assert perplexity(rows) == pytest.approx(np.exp(np.average(by["nll"], weights=by["tokens"])), rel=1e-5)


@pytest.mark.parametrize("make", [kv_models.llama, kv_models.qwen2_vl], ids=["text", "vision-language"])
def test_a_decoder_is_read_as_its_own_loss_says(make):
    model = make()
    ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(2))
    rows = token_rows(model, list(ids), batch_size=2)
    assert rows["nll"].mean() == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-4)
    assert list(rows["token"]) == ids[:, 1:].flatten().tolist()


def test_batches_and_order_do_not_matter_and_context_may_be_skipped():
    model = Table(torch.randn(7, 7))
    rows = token_rows(model, passages(6))
    assert rows.equals(token_rows(model, passages(6), batch_size=1))
    later = token_rows(model, passages(6), skip=2)
    assert later.equals(rows[rows["position"] > 2].reset_index(drop=True))


def test_long_texts_are_cut():
    assert [piece.tolist() for piece in cut_passages(range(7), 3)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(EdgelibError, match="7 tokens gives no passage of 9"):
        cut_passages(range(7), 9)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ([], "passages are token ids"),
        ("a text", "passages are token ids"),
        ([torch.tensor([1])], "passage 0 has 1 tokens"),
        ([torch.tensor([1, 2]), torch.tensor([1, 9])], "passage 1 holds token 9; the model knows 0 to 6"),
        ([torch.tensor([1, -1])], "passage 0 holds token -1"),
        ([torch.tensor([1.0, 2.0])], "passage 0 is torch.float32"),
        ([torch.zeros(2, 2, dtype=torch.int64)], "passage 0 is torch.int64 .2, 2."),
    ],
    ids=["none", "text", "short", "unknown", "negative", "floats", "two dimensions"],
)
def test_passages_that_cannot_be_read_are_refused(wrong, message):
    with pytest.raises(EdgelibError, match=message):
        token_rows(Table(torch.zeros(7, 7)), wrong)


def test_references_of_another_kind_are_refused():
    model = Table(torch.zeros(7, 7))
    with pytest.raises(EdgelibError, match="one vocabulary"):
        token_rows(model, passages(), reference=Table(torch.zeros(7, 8)))
    with pytest.raises(EdgelibError, match="no reference"):
        divergence_summary(token_rows(model, passages()))
    with pytest.raises(EdgelibError, match="NaN or infinite"):
        token_rows(Table(torch.full((7, 7), torch.nan)), passages())
    with pytest.raises(EdgelibError, match="no token"):
        perplexity(token_rows(model, passages())[:0])
