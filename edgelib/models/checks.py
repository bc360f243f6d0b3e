"""What a model folder must be before its numbers mean anything: whole, in floating point, finite, with its packages.

Every check raises EdgelibError naming what is wrong and what to do, and returns nothing where all is well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.ground.paths import require_ordinary
from edgelib.ground.records import shown
from edgelib.models.preprocess import read_object

LONGEST = 300  # letters of what another library says of a folder
_FLOATS = {"F64", "F32", "F16", "BF16"}  # how safetensors calls the types that weights are computed in
_COUNTERS = {"I64", "BOOL"}  # of positions and masks
_FILES = {  # what tools write beside the weights that they quantize
    "packing.json": "edgelib packed",
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "quanto",
}
_NAMES = {  # how the tensors of quantized layers end
    "compressed-tensors": (".weight_packed", ".weight_shape", ".weight_scale", ".weight_zero_point"),
    "GPTQ or AWQ": (".qweight", ".qzeros", ".g_idx"),
    "HQQ": (".W_q",),
    "AQLM": (".codebooks",),
    "bitsandbytes": (".absmax", ".quant_map", ".nested_absmax", ".SCB", "__nf4", "__fp4"),
    "FP8": (".weight_scale_inv", ".k_scale", ".v_scale"),
    "ModelOpt": (".weight_scale_2", ".input_scale"),
    "MXFP4": ("_proj_blocks", "_proj_scales"),
    "quanto": ("._data", "._scale"),
    "torchao": ("_weight_qdata", "_weight_scale"),
}
_ENTRIES = ("quantization_config", "compression_config", "quantize_config", "quant_config", "quantization")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LAYERS = {"num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth", "encoder_layers", "decoder_layers"}
_PACKAGES = ("sentencepiece", "protobuf", "num2words")  # of the extra "families"


def stored_types(folder: Path) -> dict[str, str]:
    """The tensors of a folder's .safetensors files: their types, by name, read from the headers alone.

    Raises EdgelibError for a folder without such files, and for files that are damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_safetensors(folder)
    types = {}
    for file in files:
        require_ordinary(file)
        try:
            with safe_open(file, framework="pt") as opened:
                types |= {key: opened.get_slice(key).get_dtype() for key in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise EdgelibError(f"{file} is damaged or cut short ({error}); fetch it again") from None
    return types


def require_shards(folder: Path) -> None:
    """The files of weights are called as transformers reads them, and all that it would read are there."""
    index = folder / _INDEX
    if (folder / _SINGLE).is_file():
        return
    if not index.is_file():
        raise EdgelibError(
            f"{folder} has neither {_SINGLE} nor {_INDEX}, which lists the files of a model in parts; fetch the whole "
            f"folder again, or call its one file {_SINGLE}"
        )
    listed = read_object(index).get("weight_map")
    files = set(listed.values()) if isinstance(listed, dict) and all(map(_is_text, listed.values())) else set()
    lacking = sorted(name for name in files if Path(name).name != name or not (folder / name).is_file())
    if lacking or not files:
        what = f"{_some(lacking)}, which it lists" if files else 'a "weight_map" of tensors and files'
        raise EdgelibError(f"{index} is not whole: there is no {what}; fetch the folder again")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def require_layers(folder: Path, config: object, most: int) -> None:
    """No configuration asks for more layers than its weights can be: to build a million of them would take hours."""
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        require_layers(folder, value, most)
        if key in _LAYERS and isinstance(value, int) and value > most:
            raise EdgelibError(
                f"{folder}: {key} in config.json is {shown(value)}, but its weights cannot be of more than {most:,} "
                "layers; copy config.json from the model's repository"
            )


def _no_safetensors(folder: Path) -> EdgelibError:
    gguf = sorted(p.name for p in folder.glob("*.gguf"))
    if gguf:
        return quantized_already(folder, "GGUF", gguf)
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    found = (
        f"it has {', '.join(others)}, pickled weights that can run code when read" if others else "it has no weights"
    )
    return EdgelibError(
        f"{folder} has no .safetensors file: {found}. Convert them on a machine you trust with "
        "model.save_pretrained(folder, safe_serialization=True)"
    )


def require_baseline(folder: Path, config: Mapping, types: Mapping[str, str]) -> None:
    """A checkpoint that is quantized already is no baseline. config: config.json; types: those of its tensors.

    It is known by what its configuration says, by the files of the tools that make such, and by the names and types
    of its tensors, whichever are left.
    """
    said = _quantization_of(config)
    if said is not None:
        raise quantized_already(folder, said, ["quantization_config in config.json"])
    for name, method in _FILES.items():
        if (folder / name).is_file():
            raise quantized_already(folder, method, [name])
    for method, endings in _NAMES.items():
        signs = [key for key in types if key.endswith(endings)]
        if signs:
            raise quantized_already(folder, method, signs)
    codes = [
        key
        for key, kind in types.items()
        if kind not in _FLOATS and (kind not in _COUNTERS or key.endswith(("weight", "bias", "_proj")))
    ]
    if codes:
        kinds = ", ".join(sorted({types[key] for key in codes}))
        raise quantized_already(folder, f"codes of type {kinds}", codes)
    if (folder / "adapter_config.json").is_file():
        raise EdgelibError(
            f"{folder} holds an adapter (adapter_config.json), which would be left out without a word; merge it into "
            "its model first (merge_and_unload of peft) and save the whole"
        )


def _quantization_of(config: object) -> str | None:
    """How a configuration, or that of a part at any depth, says that it is quantized."""
    if isinstance(config, list):
        return next((found for found in map(_quantization_of, config) if found is not None), None)
    if not isinstance(config, Mapping):
        return None
    for key in _ENTRIES:
        said = config.get(key)
        if said:
            said = said if isinstance(said, Mapping) else {"quant_method": said if isinstance(said, str) else None}
            parts = [said.get(part) for part in ("quant_method", "format", "bits") if said.get(part) is not None]
            known = [f"{part} bits" if isinstance(part, int) else str(part) for part in parts]
            bits = [b for b in (4, 8) if said.get(f"load_in_{b}bit")]
            return ", ".join([*known, *(f"{b} bits" for b in bits)]) or "by a method that is not named"
    return _quantization_of(list(config.values()))


class QuantizedAlready(EdgelibError):
    """A checkpoint that some tool has quantized, by `method`."""

    def __init__(self, text: str, method: str = ""):
        super().__init__(text)
        self.method = method


def quantized_already(folder: Path, method: str, signs: Collection[str]) -> QuantizedAlready:
    """The error for a checkpoint that some tool has quantized. signs: what gave it away."""
    packed = method == _FILES["packing.json"]
    instead = "edgelib.load_packed reads it as the quantized model that it is; " if packed else ""
    return QuantizedAlready(
        f"{folder} is quantized already ({method}; see {_some(signs)}), so it is no floating-point baseline, and "
        f"quantizing it would round it twice; {instead}to quantize or compare here, load the model that it was made "
        'from, or have the tool that made it write it out in floating point (without "quantization_config")',
        method,
    )


def require_whole(folder: Path, info: Mapping) -> None:
    """Weights of the file and places of the model are the same. info: what transformers says of loading it.

    transformers itself leaves out what may be: weights that are tied to others, those that a constructor computes, and
    those that the class declares as ignored.
    """
    if info["missing_keys"]:
        raise EdgelibError(
            f"{folder} lacks weights that its config.json asks for ({_some(info['missing_keys'])}); they would be "
            "random: fetch the folder again, or correct config.json"
        )
    if info["unexpected_keys"]:
        raise EdgelibError(
            f"{folder} has weights that its config.json has no place for ({_some(info['unexpected_keys'])}); they "
            "would be left out: correct config.json (its number of layers, heads or parts), or take the folder of the "
            "model that it describes"
        )
    if info.get("mismatched_keys"):
        raise EdgelibError(
            f"{folder} has weights of another shape than its config.json says ({_some(_shapes(info))}); correct the "
            "sizes in config.json, or take the folder of the model that it describes"
        )


def _shapes(info: Mapping) -> list[str]:
    return [f"{key}: {list(held)} for {list(said)}" for key, held, said in info["mismatched_keys"]]


def _some(names: Collection[str]) -> str:
    """The first few names, in order, and how many there are."""
    return ", ".join(sorted(names)[:5]) + (f", ... {len(names)} in all" if len(names) > 5 else "")


def require_known_tokens(tokenizer: Any, module: nn.Module, folder: Path) -> None:
    """Every token of the tokenizer's vocabulary, and those that begin, end and fill a text, have a row in the model."""
    rows = _rows(module)
    ends = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
    largest = max([tokenizer.vocab_size - 1, *(token for token in ends if token is not None)])
    if rows is not None and largest >= rows:
        raise EdgelibError(
            f"the tokenizer of {folder} makes tokens up to {largest:,}, and the model has embeddings of {rows:,}: it "
            "is that of another model; copy the tokenizer's files from the model's repository"
        )


def _rows(module: nn.Module) -> int | None:
    """How many tokens a network has embeddings of, None where that is not told."""
    told = [getattr(module.config.get_text_config(), "vocab_size", None)]
    with contextlib.suppress(NotImplementedError):  # of models with an image tower and a text tower
        told.append(getattr(module.get_input_embeddings(), "num_embeddings", None))
    return max((count for count in told if count is not None), default=None)


def require_finite(module: nn.Module, folder: Path) -> None:
    """No tensor of the module holds NaN or infinity."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise EdgelibError(
                f"{folder}: tensor {name} has {bad} values that are NaN or infinite; the file is damaged"
            )


def is_fault(error: BaseException) -> bool:
    """Whether an error is that of a library: any but an interrupt, so that a panic of Rust counts too."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason_of(error: BaseException, advice: str = "") -> str:
    """What an error of a library says, on one line, and advice; of a package that lacks, the command that brings it."""
    text = " ".join(str(error).split())
    if not isinstance(error, ImportError):
        said = shorten(text, LONGEST, placeholder=" ...") or "no details"
        return f"{type(error).__name__}: {said}" + (f"; {advice}" if advice else "")
    lacking = [name for name in _PACKAGES if name in text.lower()]
    if lacking:
        return (
            f"the family needs {' and '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed: "
            "pip install 'edgelib[families]', in a checkout pip install -e '.[families]', or pip install "
            + " ".join(lacking)
        )
    if error.name:
        return f"the family needs the package {error.name}, which is not installed: pip install {error.name}"
    return f"a package that the family needs is not installed: {text}"
