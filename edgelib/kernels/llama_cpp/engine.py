"""llama.cpp itself, from the package xllamacpp: a decoder's file, with or without a vision tower's, in memory."""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.ground.records import one_line

MARKER = "<__media__>"  # where a prompt's text has its image
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_WAIT = 600  # seconds for one answer


class Answer(NamedTuple):
    """What the engine said. tokens: ids that it chose, greedily. scores: float32 [tokens, vocabulary], the
    log-probabilities that it chose from (the most likely ones; -inf beyond them). prompt_tokens,
    prompt_ms, decode_ms: as it counted and timed them itself; decode_ms is of all tokens after the prompt.
    """

    tokens: list[int]
    scores: Tensor
    prompt_tokens: int
    prompt_ms: float
    decode_ms: float


def why_no_engine() -> str:
    """Return what is missing for the engine and how to get it; empty where it can run."""
    return "" if find_spec("xllamacpp") else "xllamacpp missing: install 'edgelib[llama-cpp]'"


class Engine:
    """A running llama.cpp; `close` or a `with` block frees it.

    decoder, vision: GGUF files. context: tokens of prompt and answer, None for those that the model was trained with.
    threads: of the CPU, None for torch's own number. cache_k, cache_v: what keys and values are kept in (CACHE_TYPES).
    image_tokens: least and most tokens that an image is resized to, None for the engine's own limits. It runs on the
    CPU, one request at a time, and keeps nothing of one for the next.
    Raises EdgelibError without xllamacpp, for files that are missing or that it does not load, for an unknown type of
    cache, and for values kept in fewer than 16 bits where it cannot.
    """

    def __init__(
        self,
        decoder: str | os.PathLike,
        vision: str | os.PathLike | None = None,
        *,
        context: int | None = None,
        threads: int | None = None,
        cache_k: str = "f16",
        cache_v: str = "f16",
        image_tokens: tuple[int, int] | None = None,
    ):
        if reason := why_no_engine():
            raise EdgelibError(f"llama.cpp cannot run here: {reason}")
        for file in filter(None, (decoder, vision)):
            if not Path(file).is_file():
                raise EdgelibError(
                    f"there is no file {Path(file).name!r} for llama.cpp; write it with edgelib.save_gguf"
                )
        os.environ.setdefault("LLAMA_MEDIA_MARKER", MARKER)  # else every process draws one of its own
        self._marker = os.environ["LLAMA_MEDIA_MARKER"]
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(decoder)
        if vision is not None:
            params.mmproj.path = str(vision)
        params.n_gpu_layers, params.fit_params, params.warmup, params.verbosity = 0, False, False, -1
        params.n_ctx, params.n_parallel = context or 0, 1
        params.cache_prompt, params.cache_ram_mib, params.ui = False, 0, False
        threads = threads or torch.get_num_threads()
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_type_k, params.cache_type_v = (_cache_type(xllamacpp, name) for name in (cache_k, cache_v))
        if "f32" in (cache_k, cache_v):  # the fused attention would narrow them to 16 bits
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if image_tokens is not None:
            params.image_min_tokens, params.image_max_tokens = image_tokens
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:  # the binding raises what C++ threw
            raise EdgelibError(
                f"llama.cpp does not load {Path(decoder).name!r} ({one_line(error)}); an architecture that it does not "
                "know, a damaged file, or a cache that its attention does not have: see its messages above"
            ) from None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._server = None

    def answer(
        self, prompt: str | Sequence[int], image: Tensor | None = None, *, tokens: int = 1, scores: int = 0, stop=True
    ) -> Answer:
        """Return what follows a prompt: text, in which `MARKER` stands for the image, or ids of tokens.

        image: uint8 [3, H, W], which the engine resizes and normalizes itself. tokens: the most to generate, greedily.
        scores: of how many tokens log-probabilities come back, the most likely first. stop: whether a token that ends
        an answer ends it here. Raises EdgelibError for a prompt that the engine refuses, with its reason.
        """
        request: dict[str, Any] = {
            "prompt": list(prompt) if not isinstance(prompt, str) else prompt.replace(MARKER, self._marker),
            "n_predict": tokens,
            "n_probs": scores,
            "temperature": 0.0,
            "cache_prompt": False,
            "return_tokens": True,
            "ignore_eos": not stop,
        }
        if image is not None:
            request["prompt"] = {"prompt_string": request["prompt"], "multimodal_data": [_png(image)]}
        said = self._post(request)
        times = said["timings"]
        made = said.get("completion_probabilities", [])
        table = torch.full(
            (len(made), 1 + max((t["id"] for step in made for t in step["top_logprobs"]), default=-1)), -torch.inf
        )
        for row, step in zip(table, made, strict=True):
            for token in step["top_logprobs"]:
                row[token["id"]] = -torch.inf if token["logprob"] is None else token["logprob"]
        ids = [step["id"] for step in made] or list(said.get("tokens", ()))
        return Answer(ids, table, times["prompt_n"], times["prompt_ms"], times["predicted_ms"])

    def _post(self, request: dict) -> dict:
        if self._server is None:
            raise EdgelibError("this engine is closed; start another one")
        address = f"{self._server.listening_address}/completion"
        body = urllib.request.Request(address, json.dumps(request).encode(), {"Content-Type": "application/json"})
        try:
            with _OPENER.open(body, timeout=_WAIT) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise EdgelibError(f"llama.cpp refuses this prompt: {_reason(error)}") from None
        except OSError as error:
            raise EdgelibError(f"llama.cpp does not answer ({error}); it may have run out of memory") from None


# a proxy for the web knows nothing of this process
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return one_line(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)


def _cache_type(package, name: str):
    choose(dict.fromkeys(CACHE_TYPES), name, "type of llama.cpp's cache")
    return getattr(package.ggml_type, f"GGML_TYPE_{name.upper()}")


def _png(image: Tensor) -> str:
    from torchvision.transforms.functional import to_pil_image

    held = io.BytesIO()
    to_pil_image(image.cpu()).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
