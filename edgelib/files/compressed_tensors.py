"""Export a quantized model as a compressed-tensors checkpoint, the format that transformers and vLLM load themselves.

Our codes are written as they are. Scales are written in the model's dtype, in which the loader keeps them: weights are
the same to the last bit in a float32 model, and in one of 16 bits their scales are off by up to 2^-8 of their size in
bfloat16 and 2^-11 in float16. Activations are rounded by
whoever runs the checkpoint: compressed-tensors takes 2 amax / 255 for 8-bit integers where this library takes
amax / 127, leaves 16-bit activations in the model's dtype, and rounds the input of a layer that reads [rows, in] with
one scale for all rows. `edgelib.kernels.roundings.computed_by(model, "compressed-tensors")` simulates that. NVFP4
weights are stored code for code, and the loader multiplies them out in bfloat16, so the model has to be in it.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.files.model_files import is_of_transformers, put_in_place, write_reader
from edgelib.formats.bits import pack_bits
from edgelib.formats.blocks import split
from edgelib.formats.microscaling import NVFP4
from edgelib.formats.table import Encoded
from edgelib.ground.records import one_line
from edgelib.ground.separate import SEPARATE, SeparateAttention, SeparateConvolution, SeparateExperts
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear


def save_compressed_tensors(model, folder: str | os.PathLike) -> Path:
    """Write a quantized transformers model as a compressed-tensors checkpoint, whole or not at all; return its path.

    `transformers.AutoModel.from_pretrained(folder)`, or the class itself, loads it where compressed-tensors is
    installed. Integers of 2 to 8 bits, symmetric or not, per channel or group, fp8 e4m3 per channel and nvfp4 can be
    written, with activations left alone, dynamic per token or static; nvfp4 activations only static (nvfp4-static),
    because compressed-tensors has one outer scale of them for all tokens. Floating tensors keep the model's dtype.
    Raises EdgelibError for a model that is not quantized or not transformers' own, a format that cannot be exported and
    a scale that is 0 in the model's dtype (named, with the layer), and a folder that exists.
    """
    module, folder = module_of(model), Path(os.path.abspath(os.path.expanduser(folder)))
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantLinear)}
    if not layers:
        raise EdgelibError("this model holds no quantized layer; pass what edgelib.quantize returned")
    if not is_of_transformers(module):
        raise EdgelibError(f"{type(module).__name__} is no model class of transformers, which has to load the export")
    if folder.exists():
        raise EdgelibError(f"{folder.name!r} exists; choose a new folder")
    _require_whole(module, layers)
    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    config.dtype = module.dtype
    settings = config.to_dict() | {"quantization_config": quantization_config(module, layers)}
    if module.get_output_embeddings() in layers.values():  # no longer the same tensor
        settings["tie_word_embeddings"] = False
        for key in settings.keys() & {"text_config"}:
            settings[key]["tie_word_embeddings"] = False
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if module.can_generate():
            module.generation_config.save_pretrained(temporary)
        write_reader(model, temporary)
        (temporary / "config.json").write_text(json.dumps(settings, indent=1, default=str), encoding="utf-8")
        _write_tensors(module, layers, temporary)
        put_in_place(temporary, folder)
    except EdgelibError:
        raise
    except (OSError, SafetensorError, ValueError) as error:  # ValueError: a generation config that makes no sense
        reason = getattr(error, "strerror", None) or one_line(error)
        raise EdgelibError(f"the checkpoint cannot be written to {folder.name!r} ({reason})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def quantization_config(module: nn.Module, layers: dict[str, QuantLinear]) -> dict:
    """Return the quantization_config of a checkpoint: one group for every way in which layers are quantized."""
    groups: list[dict] = []
    for name, layer in layers.items():
        group = {"weights": _weights(name, layer), "input_activations": _inputs(name, layer), "format": _format(layer)}
        known = next((g for g in groups if {k: v for k, v in g.items() if k != "targets"} == group), None)
        if known is None:
            groups.append(known := {"targets": [], **group})
        known["targets"].append(name)
    formats = {group["format"] for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
        "ignore": [n for n, m in module.named_modules() if isinstance(m, nn.Linear)],
    }


def _weights(name: str, layer: QuantLinear) -> dict:
    format, groups = layer.format, 0 if layer.scale is None else layer.scale.shape[-1]
    if isinstance(format, NVFP4):
        if layer.in_features % format.block:
            raise EdgelibError(
                f"layer {name!r} has {layer.in_features} inputs, and an nvfp4 checkpoint needs a multiple of "
                f"{format.block}: exclude the layer, or use save_packed"
            )
        if layer.weight.dtype != torch.bfloat16:
            raise EdgelibError(
                f"layer {name!r} computes in {layer.weight.dtype}, and compressed-tensors multiplies nvfp4 weights out "
                'in bfloat16: quantize edgelib.load(..., dtype="bfloat16"), or use save_packed'
            )
        return _nvfp4(False)
    if format.compressed_tensors is None:
        raise EdgelibError(
            f"layer {name!r} has {format.name} weights, which this export does not write; it writes integers of 2 to 8 "
            "bits, fp8 e4m3 and nvfp4, such as w8a8-minmax, w4a16, fp8 and nvfp4-w4a16 (save_packed takes every format)"
        )
    if not format.symmetric and format.bits < 8:
        raise EdgelibError(
            f"layer {name!r} has packed zero points, which transformers cannot load: compressed-tensors expects them "
            "unpacked while it builds the model and packed once it reads it; leave out -asym, or use save_packed"
        )
    grouped = groups > 1
    return {
        "num_bits": format.bits,
        "type": format.compressed_tensors,
        "symmetric": format.symmetric,
        "strategy": "group" if grouped else "channel",
        "group_size": layer.in_features // groups if grouped else None,
        "dynamic": False,
    }


def _inputs(name: str, layer: QuantLinear) -> dict | None:
    format = layer.activation
    if not format.scaled:
        return None
    static = layer.input_scale is not None
    if isinstance(format, NVFP4) and static:
        return _nvfp4("local")
    if format.compressed_tensors is None:
        advice = "; nvfp4 needs an outer scale from calibration: write nvfp4-static" * isinstance(format, NVFP4)
        raise EdgelibError(
            f"layer {name!r} rounds its inputs to {format.name}, which this export does not write; it writes int8, "
            f"other integers, fp8 e4m3 and static nvfp4{advice}"
        )
    return {
        "num_bits": format.bits,
        "type": format.compressed_tensors,
        "symmetric": True,
        "strategy": "tensor" if static else "token",
        "dynamic": not static,
    }


def _nvfp4(dynamic: bool | str) -> dict:
    """Two levels of scales, as compressed-tensors' NVFP4 has them; "local": block scales are found on the fly."""
    return {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor_group",
        "group_size": NVFP4.block,
        "dynamic": dynamic,
        "scale_dtype": str(NVFP4.scale_storage),
        "zp_dtype": str(NVFP4.scale_storage),
    }


def _format(layer: QuantLinear) -> str:
    rounded = layer.activation.scaled
    if isinstance(layer.format, NVFP4):
        return "nvfp4-pack-quantized"
    if layer.format.compressed_tensors == "float":
        return "float-quantized" if rounded else "naive-quantized"
    if layer.format.bits == 8 and rounded:
        return "int-quantized"
    return "pack-quantized" if layer.format.symmetric else "naive-quantized"


def _require_whole(module: nn.Module, layers: dict[str, QuantLinear]) -> None:
    """transformers loads a packed attention and a mixture as one, and convolutions in floating point."""
    for name, layer in module.named_modules():
        inside = [key for key in layers if key.startswith(f"{name}.")]
        if isinstance(layer, SeparateConvolution) and inside:
            raise EdgelibError(
                f"layer {name!r} is a convolution, for which compressed-tensors has no format: quantize with "
                f'{{"exclude": ["{name}"]}}, or use save_packed'
            )
        if isinstance(layer, SeparateAttention | SeparateExperts) and inside:
            kind = "a packed attention" if isinstance(layer, SeparateAttention) else "a mixture of experts"
            raise EdgelibError(
                f"layer {inside[0]!r} is a part of {kind}, whose weights transformers loads as one, in floating point: "
                f'quantize with {{"exclude": ["{name}.*"]}}, or use save_packed'
            )


def _write_tensors(module: nn.Module, layers: dict[str, QuantLinear], folder: Path) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    apart: list[str] = []
    for name, layer in layers.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in _layer_tensors(name, layer).items()}
    for name, layer in module.named_modules():
        if isinstance(layer, SEPARATE):
            tensors |= {f"{name}.{key}": p.detach() for key, p in layer.joined().named_parameters()}
            apart.append(f"{name}.")
    quantized = tuple(f"{name}." for name in layers)
    written: set[int] = set()
    for key, tensor in module.state_dict(keep_vars=True).items():
        rewritten = key.startswith(tuple(apart)) or (key.startswith(quantized) and not key.endswith(".bias"))
        if id(tensor) not in written and not rewritten:
            written.add(id(tensor))
            tensors[key] = tensor.detach()
    tensors = {key: tensor.cpu().contiguous().clone() for key, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _layer_tensors(name: str, layer: QuantLinear) -> dict[str, Tensor]:
    """Return the tensors of a layer under the names that its format of compressed-tensors has."""
    codes, dtype = layer.codes().cpu(), layer.weight.dtype
    if isinstance(layer.format, NVFP4):
        return _nvfp4_tensors(name, layer, codes)
    # any scale will do for a group of zeros, and the one that it has is too small for float16
    empty = ~split(layer.weight, layer.in_features // layer.scale.shape[-1]).any(-1)
    tensors = {"weight_scale": _narrowed(name, layer.scale.masked_fill(empty, 1.0), dtype)}
    if _format(layer) == "pack-quantized":
        tensors["weight_packed"] = packed_words(codes, layer.format.bits)
        tensors["weight_shape"] = torch.tensor(codes.shape)
    else:
        tensors["weight"] = codes
    if layer.zero is not None:
        tensors["weight_zero_point"] = layer.zero.cpu().to(torch.int8)
    if layer.input_scale is not None:
        tensors["input_scale"] = _narrowed(name, layer.input_scale, dtype).reshape(1)
    return tensors


def _nvfp4_tensors(name: str, layer: QuantLinear, codes: Tensor) -> dict[str, Tensor]:
    """Codes in pairs, block scales as e4m3 and the inverse of the outer scale in float32, by which they are divided."""
    scales = Encoded(layer.format, codes, layer.scale.cpu(), None, layer.outer.cpu()).scale_codes()
    tensors = {
        "weight_packed": pack_bits(codes, 4),
        "weight_scale": scales,
        "weight_global_scale": layer.outer.cpu().float().reciprocal().reshape(1),
    }
    if layer.input_scale is None:
        return tensors
    if isinstance(layer.activation, NVFP4):
        return tensors | {"input_global_scale": layer.input_scale.cpu().float().reciprocal().reshape(1)}
    return tensors | {"input_scale": _narrowed(name, layer.input_scale, layer.weight.dtype).reshape(1)}


def _narrowed(name: str, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scales in the dtype that the loader keeps them in."""
    stored = scale.cpu().to(dtype)
    if not stored.all():
        raise EdgelibError(
            f"layer {name!r} has a scale of {float(scale.min()):.3g}, which is 0 in {dtype}, where the loader keeps "
            "scales: quantize the model in torch.float32 or torch.bfloat16"
        )
    return stored


def packed_words(codes: Tensor, bits: int) -> Tensor:
    """Pack int8 codes [rows, width] densely into int32 words [rows, ceil(width * bits / 32)], each code + 2**(bits-1).

    Codes follow one another from the lowest bit of the first word upwards (compressed-tensors `pack_to_int32`).
    """
    offset = codes.to(torch.int16).add_(2 ** (bits - 1)).to(torch.uint8)
    packed = pack_bits(offset, bits)
    return torch.nn.functional.pad(packed, (0, -packed.shape[1] % 4)).contiguous().view(torch.int32)
