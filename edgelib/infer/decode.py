"""Greedy decoding of prepared prompts, and what the scores of the tokens say about each answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessor, LogitsProcessorList

from edgelib.infer.prefix import read_images
from edgelib.models.generative import GenerativeModel, Prompts

CacheFactory = Callable[[], Cache]  # makes the KV cache of one batch


@dataclass(frozen=True)
class Decoded:
    """Greedy answers to n prompts.

    tokens: int64 [n, T], padding after the end. length: int64 [n], tokens generated, the end token included. ended:
    bool [n], False where the answer was cut at the limit. logprob: float32 [n], the sum over the answer's tokens.
    margin: float32 [n], log-probability of the first token minus that of the second best. first: float32 [n, V],
    log-probabilities of the first token.
    """

    tokens: Tensor
    length: Tensor
    ended: Tensor
    logprob: Tensor
    margin: Tensor
    first: Tensor


class _Scores(LogitsProcessor):
    """Reads the scores of every step as they come, and changes nothing."""

    def __init__(self):
        self.prompt = 0  # tokens before the first that is generated
        self.logprobs: list[Tensor] = []
        self.margin = self.first = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best = scores.topk(2, dim=-1).values
        if not self.logprobs:
            self.prompt = input_ids.shape[1]
            self.margin, self.first = best[:, 0] - best[:, 1], scores.log_softmax(dim=-1)
        self.logprobs.append(best[:, 0] - scores.logsumexp(dim=-1))
        return scores


@torch.no_grad()
def decode(
    model: GenerativeModel,
    prompts: Prompts,
    features=None,
    *,
    max_new_tokens: int = 16,
    cache: Cache | None = None,
    share: bool = False,
) -> Decoded:
    """Decode one batch greedily, with a KV cache, until every answer has ended or has max_new_tokens.

    features: those of the prompts' images, as `model.features` returns them. cache: an empty transformers Cache to
    use in place of the default one. share: let questions about one image share its states where the model allows it
    and no cache is given; the last bits of the scores then change.
    """
    scores = _Scores()
    shared = read_images(model, prompts, features) if share and cache is None else None
    inputs, cache = (model.decoder_inputs(prompts, features), cache) if shared is None else shared
    sequences = model.module.generate(
        **inputs,
        **({} if cache is None else {"past_key_values": cache}),
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList([scores]),
    )
    tokens = sequences[:, scores.prompt :]
    logprobs = torch.stack(scores.logprobs[: tokens.shape[1]], dim=1)
    stops = torch.isin(tokens, torch.tensor(model.end_tokens, device=tokens.device))
    alive = stops.cumsum(dim=1) - stops.long() == 0  # the token and all before it
    return Decoded(
        tokens=tokens.cpu(),
        length=alive.sum(dim=1).cpu(),
        ended=stops.any(dim=1).cpu(),
        logprob=(logprobs * alive).sum(dim=1).cpu(),
        margin=scores.margin.cpu(),
        first=scores.first,
    )


def yes_margin(model: GenerativeModel, first: Tensor) -> Tensor:
    """Log-odds of yes against no in the first token, over all spellings [n]; positive leans to yes."""
    yes, no = model.yes_no_tokens
    return first[:, yes].logsumexp(dim=1) - first[:, no].logsumexp(dim=1)
