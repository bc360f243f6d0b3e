"""llama.cpp on a file against the simulation of the same file: the same prompts and images, next-token distributions.

What separates the two is taken apart by switching one thing at a time: who prepares the image, who runs the vision
tower, which numbers weights and inputs are rounded to, how far decoding goes on alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from edgelib.errors import EdgelibError
from edgelib.files.gguf.tokens import spelled
from edgelib.files.gguf.write import save_gguf
from edgelib.formats.gguf.codec import KINDS
from edgelib.formats.table import FORMATS
from edgelib.ground.modules import shared_copy, swapped
from edgelib.kernels.llama_cpp.engine import MARKER, Engine
from edgelib.kernels.roundings import Rounding, block_rows
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import quantize

if TYPE_CHECKING:
    import pandas as pd

_EXACT_GELU = ("GELUActivation", "GELU")  # of transformers and of torch
_SUPER = 256  # values of a block of inputs beside types of 256


class Pair(NamedTuple):
    """Distributions over the next token, float32 [prompts, vocabulary], as log-probabilities."""

    simulated: Tensor
    engine: Tensor


def engine_prompt(model, question: str, *, image: bool = True) -> str:
    """Return the text that llama.cpp reads as what a model reads before it answers a question, images as `MARKER`.

    model: a loaded model that writes, of the family Qwen2-VL, around whose images llama.cpp puts its own tokens.
    """
    ids = model.tokenizer(model.prompts([question], image=image)[0]).input_ids
    if not image:
        return spelled(model.tokenizer, ids)
    at = ids.index(model.image_token)
    return spelled(model.tokenizer, ids[: at - 1]) + MARKER + spelled(model.tokenizer, ids[at + 2 :])


@torch.no_grad()
def simulated_scores(model, images: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
    """Return the log-probabilities [questions, vocabulary] of the next token by torch; one prompt at a time."""
    rows = []
    for image, question in zip(images, questions, strict=True):
        made = model.prepare([image], [question])
        features = model.features(made.pixels) if made.pixels else None
        logits = model.module(**model.decoder_inputs(made, features)).logits[0, -1]
        rows.append(logits.float().log_softmax(-1))
    return torch.stack(rows)


def engine_scores(engine: Engine, model, images: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
    """Return the log-probabilities [questions, vocabulary] of the next token by llama.cpp, model giving the prompts."""
    words = model.module.get_input_embeddings().weight.shape[0]
    texts = (engine_prompt(model, question) for question in questions)
    rows = [engine.answer(text, image, scores=words).scores[0] for text, image in zip(texts, images, strict=True)]
    return torch.stack([torch.nn.functional.pad(row, (0, words - len(row)), value=-torch.inf) for row in rows])


def agreement_of(pair: Pair) -> dict[str, float]:
    """Compare two sets of distributions.

    Returns n, top1 (the share of prompts whose most likely token is the same), kl (mean of KL(simulated || engine) in
    nats, at least 0, of both as they sum to 1), kl_p95 and kl_max of single prompts, max_difference (largest
    |difference| of log-probabilities of tokens that either gives at least 1e-4).
    Raises EdgelibError for different shapes, no prompts, and NaN.
    """
    simulated, engine = (scores.double() for scores in pair)
    if simulated.shape != engine.shape or simulated.dim() != 2 or not simulated.numel():
        raise EdgelibError(
            "distributions are two tensors of one shape [prompts, vocabulary], got "
            f"{tuple(simulated.shape)} and {tuple(engine.shape)}"
        )
    if simulated.isnan().any() or engine.isnan().any():
        raise EdgelibError("log-probabilities hold NaN; look for the layer that made them")
    # float32 sums to 1 within 1e-6 only, which is more than the divergence of two good computations
    simulated, engine = simulated.log_softmax(-1), engine.log_softmax(-1)
    p = simulated.exp()
    kl = torch.where(p > 0, p * (simulated - engine), 0.0).sum(-1)
    likely = (p >= 1e-4) | (engine.exp() >= 1e-4)
    return {
        "n": len(kl),
        "top1": float((simulated.argmax(-1) == engine.argmax(-1)).double().mean()),
        "kl": float(kl.mean()),
        "kl_p95": float(kl.quantile(0.95)),
        "kl_max": float(kl.max()),
        "max_difference": float((simulated - engine).abs()[likely].max()),
    }


def rounded_as_engine(model):
    """Return a copy of a model quantized by a mix whose layers round inputs as llama.cpp's CPU kernels do.

    A type of 256 values multiplies int8 inputs in blocks of 256, one of 32 in blocks of 32, scales amax / 127 (in half
    precision for the latter); F16 weights multiply inputs in half precision. What is not quantized stays as it is.
    """
    result = shared_copy(model.module)
    for layer in result.modules():
        if isinstance(layer, QuantLinear):
            layer.activation = input_rounding(layer.format.name)
    return model.with_module(result)


def input_rounding(type: str):
    """Return how llama.cpp's CPU kernels round the inputs of a weight of a type."""
    if type not in KINDS:
        return FORMATS["fp16"]
    if KINDS[type].block == _SUPER:
        return Rounding("q8_k", 8, lambda x: block_rows(x, _SUPER))
    return Rounding("q8_0", 8, _half_scale_rows)


def _half_scale_rows(x: Tensor) -> Tensor:
    """int8 in blocks of 32 on scales amax / 127, rounded by the exact scale and multiplied by its half precision."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (codes * scale.half().float()).flatten(-2)


def tower_as_engine(model):
    """Return a copy of a Qwen2-VL whose vision tower has llama.cpp's GELU (by tanh) instead of the exact one."""
    result = shared_copy(model.module)
    tower = result.base_model.visual
    made = {layer: nn.GELU(approximate="tanh") for layer in tower.modules() if type(layer).__name__ in _EXACT_GELU}
    return model.with_module(swapped(result, made))


def presized(model, image: Tensor) -> Tensor:
    """Return an image uint8 [3, H, W] in the size that the model's own processor resizes it to, by its own filter."""
    processor = model.processor.image_processor
    side = processor.patch_size * processor.merge_size
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    limits = processor.size["shortest_edge"], processor.size["longest_edge"]
    height, width = smart_resize(*image.shape[1:], factor=side, min_pixels=limits[0], max_pixels=limits[1])
    if (height, width) == tuple(image.shape[1:]):
        return image
    return resize(image, [height, width], InterpolationMode.BICUBIC, antialias=True)


def agreement_ladder(
    model,
    images: Sequence[Tensor],
    questions: Sequence[str],
    mix: str,
    folder: str | os.PathLike,
    *,
    vision: str = "f16",
    threads: int | None = None,
) -> pd.DataFrame:
    """Return one row for each step from torch in float32 to llama.cpp on the files of a mix; each switches one thing.

    model: the baseline, a loaded Qwen2-VL. images uint8 [3, H, W], questions: one of each a prompt. mix, vision: of the
    decoder's and the tower's file, which are written to `folder` and stay. threads: as `Engine`.
    Columns: step, changes, and those of `agreement_of` between both sides of the step. Steps: "preprocessing": who
    resizes the image (0 where none is resized). "vision": the tower's exact GELU, or llama.cpp's. "engine": the same
    float32 weights, images, GELU and caches in torch and in llama.cpp: its own numeric noise. "cache": keys and values
    in float16, and its fused attention. "weights": those of the mix. "inputs": rounded as its kernels round them.
    "files": the simulation with all of that against llama.cpp on the files. "simulation": the simulation as `quantize`
    makes it against the same. "all": torch in float32 against llama.cpp on the files.
    Raises EdgelibError as `save_gguf` and `Engine` do.
    """
    import pandas as pd

    sized, same = [presized(model, image) for image in images], mix == "f32"

    def torch_scores(of) -> Tensor:
        return simulated_scores(of, images, questions)

    def engine(images: Sequence[Tensor], mix: str, vision: str, cache: str) -> Tensor:
        decoder, tower = engine_files(model, mix, vision, folder)
        limits = image_limits(model, images)
        with Engine(decoder, tower, threads=threads, cache_k=cache, cache_v=cache, image_tokens=limits) as running:
            return engine_scores(running, model, images, questions)

    quantized = model if same else quantize(model, f"gguf-{mix}+{vision}")
    rounded = quantized if same else rounded_as_engine(quantized)
    plain, as_engine = torch_scores(model), torch_scores(tower_as_engine(model))
    exact, half = (engine(sized, "f32", "f32", cache) for cache in ("f32", "f16"))
    raw = (
        exact
        if all(one is two for one, two in zip(sized, images, strict=True))
        else engine(images, "f32", "f32", "f32")
    )
    simulated, inputs = torch_scores(quantized), torch_scores(tower_as_engine(rounded))
    files = engine(sized, mix, vision, "f16")
    steps = [
        ("preprocessing", "llama.cpp: images as they are -> resized by the model's processor", Pair(raw, exact)),
        ("vision", "torch: exact GELU -> llama.cpp's, in the tower", Pair(plain, as_engine)),
        ("engine", "torch -> llama.cpp, all the same in float32", Pair(as_engine, exact)),
        ("cache", "llama.cpp: caches float32 -> float16", Pair(exact, half)),
        ("weights", f"torch: float32 -> {mix}, tower {vision}", Pair(plain, simulated)),
        ("inputs", "torch: inputs in 16 bits -> rounded as llama.cpp's kernels do", Pair(simulated, inputs)),
        ("files", "torch with those inputs -> llama.cpp, same file", Pair(inputs, files)),
        ("simulation", "torch as `quantize` makes it -> llama.cpp, same file", Pair(simulated, files)),
        ("all", "torch in float32 -> llama.cpp on the file", Pair(plain, files)),
    ]
    return pd.DataFrame([{"step": step, "changes": text} | agreement_of(pair) for step, text, pair in steps])


@torch.no_grad()
def decoding_agreement(
    engine: Engine, model, images: Sequence[Tensor], questions: Sequence[str], tokens: int = 8
) -> dict[str, float]:
    """Compare whole greedy answers: n, same (the share that is equal, token by token, up to the end of the answer)."""
    ends, same = set(model.end_tokens), 0
    for image, question in zip(images, questions, strict=True):
        made = model.prepare([image], [question])
        features = model.features(made.pixels) if made.pixels else None
        inputs = model.decoder_inputs(made, features)
        ours = model.module.generate(**inputs, max_new_tokens=tokens)[0, made.texts["input_ids"].shape[1] :].tolist()
        theirs = engine.answer(engine_prompt(model, question), image, tokens=tokens, scores=1).tokens
        same += _until(ours, ends) == _until(theirs, ends)
    return {"n": len(questions), "same": same / len(questions)}


def _until(tokens: Sequence[int], ends: set[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, tokens))


def engine_files(model, mix: str, vision: str, folder: str | os.PathLike) -> tuple[Path, Path]:
    """Write the files of a decoder and its tower, unless they are there; return their paths."""
    made = []
    for part, name in (("decoder", mix), ("vision", vision)):
        path = Path(folder) / f"{'mmproj-' if part == 'vision' else ''}{model.name.replace('/', '-')}-{name}.gguf"
        made.append(path if path.is_file() else save_gguf(model, path, name, part=part))
    return made[0], made[1]


def image_limits(model, images: Sequence[Tensor]) -> tuple[int, int]:
    """Return the least and most tokens that a model's own processor makes of these images, as limits for `Engine`."""
    counts = set()
    for size in {tuple(image.shape) for image in images}:
        ids = model.prepare([torch.zeros(size, dtype=torch.uint8)], ["a"]).texts["input_ids"]
        counts.add(int((ids == model.image_token).sum()))
    return min(counts), max(counts)
