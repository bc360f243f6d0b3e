"""Read GGUF files back as models: their weights, decoded to floating point, in networks of transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.formats.gguf.codec import KINDS, gguf_decode
from edgelib.ground.modules import shared_copy
from edgelib.ground.records import one_line
from edgelib.models.gguf.names import ARCHITECTURES, architecture_of, entries, fill
from edgelib.observe.calibrate import module_of

_FLOATS = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
_TEXT = {"llama": ("LlamaConfig", "LlamaForCausalLM"), "qwen2": ("Qwen2Config", "Qwen2ForCausalLM")}


class GGUFFile:
    """A GGUF file, opened: `metadata` by key, `types` and `shapes` [..., columns] of its tensors by name.

    Raises EdgelibError for a file that is missing, no GGUF, or cut short, and without the package gguf.
    """

    def __init__(self, file: str | os.PathLike):
        try:
            from gguf import GGUFReader
        except ImportError:
            raise EdgelibError(
                "reading a GGUF file needs the package gguf, which is not installed: pip install 'edgelib[gguf]'"
            ) from None
        self.path = Path(os.path.expanduser(file))
        if not self.path.is_file():
            raise EdgelibError(f"there is no file {self.path.name!r}; pass the path of a GGUF file")
        try:
            reader = GGUFReader(self.path)
            self.metadata = {key: _plain(field) for key, field in reader.fields.items()}
        except Exception as error:  # it checks little: any type may come out of damaged bytes
            raise EdgelibError(
                f"{self.path.name!r} is no GGUF file, or damaged or cut short ({one_line(error)}); fetch it again"
            ) from None
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.types = {name: tensor.tensor_type.name for name, tensor in self._tensors.items()}
        self.shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in self._tensors.items()}

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str) -> Any:
        """Return a value of the metadata under the architecture's own name; raises EdgelibError where it lacks."""
        name = f"{self.architecture}.{key}"
        if name not in self.metadata:
            raise EdgelibError(f"{self.path.name!r} says nothing of {name}, so its network cannot be built")
        return self.metadata[name]

    def decoded(self, name: str) -> Tensor:
        """Return a tensor's values float32; raises EdgelibError for a type that is not known here."""
        tensor, kind, shape = self._tensors[name], self.types[name], self.shapes[name]
        raw = np.array(tensor.data)  # out of the mapped file
        if kind in _FLOATS:
            return torch.from_numpy(raw.astype(np.float32)).view(shape)
        if kind == "BF16":
            return torch.from_numpy(raw.view(np.uint8).copy()).view(torch.bfloat16).float().view(shape)
        if kind.lower() not in KINDS:
            known = ", ".join([*_FLOATS, "BF16", *(key.upper() for key in KINDS)])
            raise EdgelibError(
                f"tensor {name!r} of {self.path.name!r} is of type {kind}, which is not known here; it knows {known}: "
                "take a file of another mix"
            )
        blocks = torch.from_numpy(raw.view(np.uint8).copy())
        columns = shape[-1]
        width = columns // KINDS[kind.lower()].block * KINDS[kind.lower()].bytes
        return gguf_decode(blocks.view(-1, width), kind.lower(), columns).view(shape)


def _plain(field) -> Any:
    return field.contents()


def load_gguf(file: str | os.PathLike | GGUFFile, *, vision: str | os.PathLike | None = None, like=None):
    """Return the model of a GGUF file, its weights decoded to float32; what was rounded stays rounded.

    file: of a decoder (Llama, Qwen2, Qwen2-VL), or what was opened of it. vision: of its vision tower (mmproj). like:
    the model whose network and tokenizer it has, such as the baseline that the file was made from; parts that no file
    gives are its own. Without it, a decoder of text alone is built from what its file says. The result is called after
    the file and says that it is dequantized; `edgelib.models.gguf.reader.GGUFFile` tells the types.
    Raises EdgelibError for a file that is missing, damaged, cut short or of an unknown architecture or type, tensors
    that lack, are left over or have another shape than the network, and a Qwen2-VL without `like`.
    """
    opened = file if isinstance(file, GGUFFile) else GGUFFile(file)
    choose(dict.fromkeys(ARCHITECTURES.values()), opened.architecture, f"architecture in {opened.path.name!r}:")
    if like is None:
        if opened.architecture not in _TEXT:
            raise EdgelibError(
                f"{opened.path.name!r} is the decoder of a {opened.architecture}, whose images need what no "
                'file holds: load_gguf(file, vision=..., like=load("scenes-vlm")), with the model that it was made from'
            )
        module = _text_decoder(opened)
    else:
        module = _own_copy(module_of(like))
    if architecture_of(module) != opened.architecture:
        raise EdgelibError(
            f"{opened.path.name!r} holds a {opened.architecture}, and the model to read it into is a "
            f"{architecture_of(module)}: pass the model that the file was made from"
        )
    _read_into(module, opened, "decoder")
    if vision is not None:
        tower = GGUFFile(vision)
        if tower.architecture != "clip":
            raise EdgelibError(f"{tower.path.name!r} holds a {tower.architecture}, not a vision tower (mmproj)")
        _read_into(module, tower, "vision")
    module.eval().requires_grad_(False)
    if like is None or like is module_of(like):
        return module
    return replace(like.with_module(module), name=f"{opened.path.name} (dequantized)")


def _own_copy(module: nn.Module) -> nn.Module:
    result = shared_copy(module)
    tied = {}
    for layer in result.modules():
        for key, parameter in layer._parameters.items():
            if parameter is not None:
                own = tied.setdefault(id(parameter), nn.Parameter(parameter.detach().clone(), requires_grad=False))
                layer._parameters[key] = own
    return result


def _read_into(module: nn.Module, opened: GGUFFile, part: str) -> None:
    wanted = {entry.name: entry for entry in entries(module, part)}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    missing, over = wanted.keys() - opened.types.keys(), opened.types.keys() - wanted.keys() - {"rope_freqs.weight"}
    for names, what in ((missing, "lacks"), (over, "has tensors that the network has no place for:")):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise EdgelibError(f"{opened.path.name!r} {what} {first} ({len(names)} in all); it is of another model")
    for name, entry in wanted.items():
        shape = tuple(entry.out(parameters[entry.parameter]).shape)
        if opened.shapes[name] != shape:
            raise EdgelibError(
                f"tensor {name!r} of {opened.path.name!r} is {list(opened.shapes[name])}, and the network has "
                f"{list(shape)}; it is of another model"
            )
    for name, entry in wanted.items():
        fill(parameters[entry.parameter], entry, opened.decoded(name))


def _text_decoder(opened: GGUFFile) -> nn.Module:
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in _TEXT[opened.architecture])
    said: Mapping[str, str] = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    }
    sizes = {name: opened.value(key) for name, key in said.items()}
    theta = opened.metadata.get(f"{opened.architecture}.rope.freq_base", 10000.0)
    if "rope_freqs.weight" in opened.types or f"{opened.architecture}.rope.scaling.type" in opened.metadata:
        raise EdgelibError(
            f"{opened.path.name!r} scales its rotary positions, which is not read here: pass like=, the model it is of"
        )
    if "token_embd.weight" not in opened.types:
        raise EdgelibError(f"{opened.path.name!r} has no table of tokens (token_embd.weight); it is no whole decoder")
    config = config_class(
        **sizes,
        vocab_size=opened.shapes["token_embd.weight"][0],
        tie_word_embeddings="output.weight" not in opened.types,
        rope_parameters={"rope_type": "default", "rope_theta": float(theta)},
    )
    return model_class(config)
