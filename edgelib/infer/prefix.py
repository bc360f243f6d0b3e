"""Questions about one image share what the decoder reads before them: it reads the image once, not once per question.

A prompt is split where its last image token ends. The first parts, one per image, fill a KV cache; its rows are then
given to the questions. Both parts are padded on the left, so some padding lies between them, which the mask hides.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from edgelib.models.generative import GenerativeModel, Prompts

# inputs whose last axis runs along tokens; what else there may be describes the image, which is encoded already
_BY_TOKEN = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
_LOOKS_BACK: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def read_images(model: GenerativeModel, prompts: Prompts, features) -> tuple[dict[str, Tensor], Cache] | None:
    """Return what `generate` takes for prompts whose images it has read already, and the cache that holds them.

    None where nothing is saved or the model does not allow it: no two questions about one image, no features because
    images enter with each question, images behind it, a cache that is no list of plain states, a decoder whose image
    tokens look ahead.
    """
    if features is None or len(prompts.image.unique()) == len(prompts):
        return None
    found = split(prompts.texts, prompts.image, model.image_token)
    if found is None or not looks_back(model, prompts, features):
        return None
    texts, width = found
    _, group = prompts.image.unique(return_inverse=True)
    first = torch.stack([(group == number).nonzero()[0, 0] for number in group.unique()])
    cache = _states(model, prompts, {k: v[..., first, :width] for k, v in texts.items()}, first, features)
    cache.batch_select_indices(group.to(model.device))
    return texts, cache


def split(texts: dict[str, Tensor], image: Tensor, image_token: int | None) -> tuple[dict[str, Tensor], int] | None:
    """Return prompts laid out anew, [first part | rest], both padded on the left, and the width of the first part.

    texts: of prompts; only what runs along tokens is laid out and returned. image: int64 [n], the image of each row.
    None if rows of one image differ before the end of it, if a row has no image, or if nothing follows an image.
    """
    ids, mask = texts["input_ids"], texts["attention_mask"].bool()
    shown = ids == image_token
    if not shown.any(dim=1).all():
        return None
    length = ids.shape[1]
    begin = length - mask.sum(dim=1)
    end = length - shown.int().flip(1).argmax(dim=1)  # behind the last image token
    width, rest = int((end - begin).max()), int((length - end).max())
    if int((length - end).min()) == 0:
        return None
    column = torch.arange(width + rest, device=ids.device)
    source = torch.where(column < width, end[:, None] - width + column, length - width - rest + column)
    kept = (source >= begin[:, None]) & ((column < width) | (source >= end[:, None]))
    source = source.clamp(min=0)
    laid = {
        name: texts[name].gather(-1, source.expand(texts[name].shape[:-1] + source.shape[-1:]))
        for name in _BY_TOKEN
        if name in texts
    }
    padding = ids[~mask][0] if not mask.all() else ids.new_zeros(())
    laid["input_ids"] = torch.where(kept, laid["input_ids"], padding)
    laid["attention_mask"] = laid["attention_mask"] * kept
    starts, image = laid["input_ids"][:, :width], image.to(ids.device)
    order = image.argsort(stable=True)
    same = (image[order][1:] != image[order][:-1])[:, None] | (starts[order][1:] == starts[order][:-1])
    return (laid, width) if bool(same.all()) else None


def looks_back(model: GenerativeModel, prompts: Prompts, features) -> bool:
    """Whether no state up to the end of an image depends on the question behind it, found by asking twice.

    The same prompt is read with two endings of one length that differ in every token: the states before them must be
    equal. False for a prompt of which no other ending can be made.
    """
    known = _LOOKS_BACK.get(model.module)
    if known is not None:
        return known
    texts = {k: v[..., :1, :] for k, v in prompts.texts.items() if k in _BY_TOKEN}
    found = split(texts, prompts.image[:1], model.image_token)
    if found is None:
        return False
    texts, width = found
    ids, states = texts["input_ids"], []
    rest, last = ids[:, width:], ids[:, -1:]
    others = ids[texts["attention_mask"].bool() & (ids != model.image_token) & (ids != last)]
    if not len(others):
        return False
    for ending in (rest, torch.where(rest == last, others[-1], last)):
        read = texts | {"input_ids": torch.cat([ids[:, :width], ending], dim=1)}
        cache = _states(model, prompts, read, torch.tensor([0]), features)
        if not _is_plain(cache):
            return False
        states.append([t[..., :width, :] for layer in cache.layers for t in (layer.keys, layer.values)])
    known = _LOOKS_BACK[model.module] = all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    return known


def _is_plain(cache: Cache) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _states(model: GenerativeModel, prompts: Prompts, texts: dict[str, Tensor], rows: Tensor, features) -> Cache:
    """The cache after reading `texts`, token by token inputs of these rows of the prompts."""
    inputs = model.decoder_inputs(Prompts(texts, prompts.pixels, prompts.image[rows]), features)
    if "position_ids" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
    return model.module(**inputs, use_cache=True, logits_to_keep=1).past_key_values
