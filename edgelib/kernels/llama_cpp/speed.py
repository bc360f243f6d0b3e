"""Speed of llama.cpp on this machine: tokens per second by type of file and cache, and the wait for a first token."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgelib.errors import EdgelibError
from edgelib.files.gguf.write import save_gguf
from edgelib.kernels.llama_cpp.agreement import engine_files, engine_prompt
from edgelib.kernels.llama_cpp.engine import Engine
from edgelib.models.token_budget import image_tokens, with_image_tokens
from edgelib.observe.calibrate import module_of

if TYPE_CHECKING:
    import pandas as pd

MIXES = ("f16", "q8_0", "q4_k_m", "q4_0")
CACHES = ("f16", "q8_0", "q4_0")


def decoder_shape(
    hidden: int = 896, layers: int = 24, heads: int = 14, kv_heads: int = 2, inner: int = 4864, words=151936
):
    """Return a Qwen2 decoder with random weights; by default the shape of Qwen2.5-0.5B."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=words,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def engine_speed(
    model,
    folder: str | os.PathLike,
    *,
    mixes: Sequence[str] = MIXES,
    caches: Sequence[str] = CACHES,
    prompt: int = 64,
    tokens: int = 32,
    repeats: int = 3,
    threads: int | None = None,
) -> pd.DataFrame:
    """Measure llama.cpp on a decoder; return one row for each mix, type of cache and repeat. Measured, on this machine.

    model: a loaded model or a decoder, as `save_gguf` takes them; files go to `folder` and stay. prompt, tokens: how
    many are read, and then generated one by one. Columns: mix, cache (of keys and values), repeat, threads, file_bytes,
    prompt_tokens, prompt_per_s, decode_per_s (tokens after the first), decode_ms (of one token). The first run of each
    engine is not counted. Raises EdgelibError as `save_gguf` and `Engine` do, and for fewer than 2 tokens.
    """
    import pandas as pd

    if tokens < 2 or prompt < 1 or repeats < 1:
        raise EdgelibError(
            f"a measurement reads at least 1 token, generates 2 and repeats once, got {prompt}, {tokens} and {repeats}"
        )
    words = module_of(model).get_input_embeddings().weight.shape[0]
    generator, rows = torch.Generator().manual_seed(0), []
    threads = threads or torch.get_num_threads()
    for mix in mixes:
        file = Path(folder) / f"speed-{getattr(model, 'name', type(model).__name__).replace('/', '-')}-{mix}.gguf"
        if not file.is_file():
            save_gguf(model, file, mix)
        for cache in caches:
            with Engine(file, context=prompt + tokens + 8, threads=threads, cache_k=cache, cache_v=cache) as engine:
                for repeat in range(-1, repeats):
                    ids = torch.randint(words, (prompt,), generator=generator).tolist()
                    said = engine.answer(ids, tokens=tokens, stop=False)
                    if repeat < 0:
                        continue
                    made = max(1, tokens - 1)
                    rows.append(
                        {
                            "mix": mix,
                            "cache": cache,
                            "repeat": repeat,
                            "threads": threads,
                            "file_bytes": file.stat().st_size,
                            "prompt_tokens": said.prompt_tokens,
                            "prompt_per_s": 1e3 * said.prompt_tokens / said.prompt_ms,
                            "decode_per_s": 1e3 * made / said.decode_ms,
                            "decode_ms": said.decode_ms / made,
                        }
                    )
    return pd.DataFrame(rows)


def first_token_speed(
    model,
    folder: str | os.PathLike,
    *,
    tokens: Sequence[int],
    mixes: Sequence[str] = MIXES,
    vision: str = "f16",
    question: str = "What is in the picture?",
    repeats: int = 5,
    threads: int | None = None,
) -> pd.DataFrame:
    """Measure how long llama.cpp takes from a question about a picture to the first token of the answer.

    model: a loaded Qwen2-VL. tokens: numbers of image tokens that the picture is resized to. mixes: of the decoder's
    file; vision: of the tower's; both go to `folder` and stay. Columns: mix, vision, image_tokens (what the number
    became), repeat, threads, prompt_tokens, first_ms: by the clock, with preprocessing, the tower, the prompt and the
    passing of the request. The first run of each engine is not counted. Measured, on this machine.
    Raises EdgelibError as `save_gguf`, `Engine` and `with_image_tokens` do, and for fewer than 1 repeat.
    """
    import pandas as pd

    if repeats < 1:
        raise EdgelibError(f"a measurement repeats at least once, got {repeats}")
    threads, rows = threads or torch.get_num_threads(), []
    picture = first_picture()
    counts = dict.fromkeys(image_tokens(with_image_tokens(model, wanted), picture) for wanted in tokens)
    text = engine_prompt(model, question)
    for mix in mixes:
        decoder, tower = engine_files(model, mix, vision, folder)
        for count in counts:
            limits = count, count + 1  # the engine rounds down what it computes from an equal area
            with Engine(decoder, tower, context=count + 256, threads=threads, image_tokens=limits) as engine:
                for repeat in range(-1, repeats):
                    start = time.perf_counter()
                    said = engine.answer(text, picture, stop=False)
                    waited = 1e3 * (time.perf_counter() - start)
                    row = {"mix": mix, "vision": vision, "image_tokens": count, "repeat": repeat, "threads": threads}
                    if repeat >= 0:
                        rows.append(row | {"prompt_tokens": said.prompt_tokens, "first_ms": waited})
    return pd.DataFrame(rows)


def first_picture() -> torch.Tensor:
    """Return the picture that is asked about: patches of random colours, uint8 [3, 448, 448]."""
    colours = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return colours.repeat_interleave(56, 1).repeat_interleave(56, 2)
