"""What a quantized cache makes a model say, against what it said before, step by step and without labels."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from edgelib.errors import EdgelibError
from edgelib.kv.cache import KVPlan
from edgelib.observe.calibrate import module_of
from edgelib.observe.distance import divergence


class Prepared(list):
    """Batches of inputs of `generate` that are made already."""


def prompt_batches(model, data, batch_size: int = 64) -> Prepared:
    """Inputs of `generate` for every question of a set, or the inputs of a bare module as they are."""
    if isinstance(data, Prepared):
        return data
    if isinstance(model, nn.Module):
        if isinstance(data, Mapping | str | Tensor):
            raise EdgelibError("the inputs of a bare module are an iterable of keyword arguments, such as [inputs]")
        return Prepared(data)
    made = Prepared()
    for positions, images, which in data.batches(batch_size):
        prompts = model.prepare(images, list(data.rows["question"].iloc[positions.numpy()]), which)
        with torch.no_grad():
            features = model.features(prompts.pixels) if prompts.pixels else None
        made.append(model.decoder_inputs(prompts, features))
    return made


class _Forced(LogitsProcessor):
    """Lets `generate` write given tokens whatever the scores are."""

    def __init__(self, tokens: Tensor, prompt: int):
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.tokens[:, input_ids.shape[1] - self.prompt, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0)


def kv_drift(
    model, plan: KVPlan, data, steps: int = 8, batch_size: int = 64, *, beyond_end: bool = False
) -> pd.DataFrame:
    """Return one row per prompt and decode step: item, step, kl, flip.

    The model first writes `steps` tokens greedily with its own cache; the rounded cache is then made to read the same
    tokens. kl: divergence of the distribution of the step's token from the one before, in nats. flip: whether another
    token would have been written. Steps after the end of an answer are left out, unless the model is made to write on
    (`beyond_end`) to see whether errors grow.
    """
    return kv_drifts(model, {"": plan}, data, steps, batch_size, beyond_end=beyond_end)[""]


@torch.no_grad()
def kv_drifts(
    model, plans: Mapping[str, KVPlan], data, steps: int = 8, batch_size: int = 64, *, beyond_end: bool = False
) -> dict[str, pd.DataFrame]:
    """Return the table of `kv_drift` of several caches by name; the model writes with its own cache once for all."""
    module, first = module_of(model), 0
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in plans}
    ends = module.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends])
    for batch in prompt_batches(model, data, batch_size):
        prompt = batch["input_ids"].shape[1]
        options = dict(max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True)
        before = module.generate(**batch, **options, min_new_tokens=steps if beyond_end else 0)
        tokens = before.sequences[:, prompt:]
        forced = LogitsProcessorList([_Forced(tokens, prompt)])
        options["max_new_tokens"] = tokens.shape[1]
        old = torch.stack(before.logits, 1).float().log_softmax(-1)
        stops = torch.isin(tokens, ends.to(tokens.device))
        alive = (stops.cumsum(1) - stops.long() == 0).cpu() | beyond_end
        rows, step = (index.numpy() for index in alive.nonzero(as_tuple=True))
        for name, plan in plans.items():
            after = module.generate(**batch, **options, past_key_values=plan(), logits_processor=forced)
            new = torch.stack(after.logits, 1).float().log_softmax(-1)
            kl = divergence(old, new).cpu()[alive].numpy()
            flip = (old.argmax(-1) != new.argmax(-1)).cpu()[alive].numpy()
            frames[name].append(pd.DataFrame({"item": first + rows, "step": step, "kl": kl, "flip": flip}))
        first += len(tokens)
    if not first:
        raise EdgelibError("there is no prompt to look at: the data set is empty")
    return {name: pd.concat(found, ignore_index=True) for name, found in frames.items()}
