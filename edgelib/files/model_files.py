"""What a packed model needs beside its weights to be built again: configuration, tokenizer, preprocessor."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode

from edgelib.errors import EdgelibError, choose
from edgelib.files.description import Description, Facts
from edgelib.files.pack_file import WEIGHTS
from edgelib.models.architectures import model_class
from edgelib.models.checks import reason_of, require_known_tokens, require_layers
from edgelib.models.families.duals import dual_encoder
from edgelib.models.families.writers import loader_of
from edgelib.models.generative import GenerativeModel
from edgelib.models.generative_folder import load_processor, quiet_transformers, require_prompt
from edgelib.models.load import load_tokenizer, require_tokenizer
from edgelib.models.preprocess import PatchBudget, Preprocess, from_transformers, read_object
from edgelib.models.zero_shot import ClipModel
from edgelib.observe.calibrate import module_of

# any other name would be a kernel to fetch from the hub and run
_ATTENTION = {name: name for name in ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")}
_LEAST_LAYERS, _BYTES_OF_LAYER = 64, 1024  # a file of so many bytes more may be of a layer more; none is smaller
_RESAMPLE = {InterpolationMode.NEAREST: 0, InterpolationMode.BILINEAR: 2, InterpolationMode.BICUBIC: 3}


def is_of_transformers(module: nn.Module) -> bool:
    """Whether transformers offers the module's class under its own name, so that a configuration can bring it back."""
    import transformers

    return getattr(transformers, type(module).__name__, None) is type(module)


def write_model_files(model, folder: Path) -> dict:
    """Write configuration, tokenizer and preprocessor as far as the model has them; return what the files cannot say.

    Keys as in `edgelib.files.description.Facts`: wrapper, name, attention.
    """
    module, name = module_of(model), getattr(model, "name", None)
    known = {
        "wrapper": None if module is model else type(model).__name__,
        "name": name if isinstance(name, str) else None,
        "attention": None,
    }
    if not is_of_transformers(module):
        return known
    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    config.save_pretrained(folder)
    if module.can_generate():
        module.generation_config.save_pretrained(folder)
    write_reader(model, folder)
    return known | {"attention": module.config._attn_implementation or "eager"}


def write_reader(model, folder: Path) -> None:
    """Write what turns images and texts into inputs: tokenizer and preprocessor, or the processor that has both."""
    if isinstance(model, GenerativeModel):
        model.processor.save_pretrained(folder)
    if isinstance(model, ClipModel):
        model.tokenizer.save_pretrained(folder)
        write_preprocess(model.preprocess, folder)


def write_preprocess(preprocess: Preprocess, folder: Path) -> None:
    """Write a preprocessor_config.json from which `from_transformers` reads the same Preprocess."""
    size, crop, sides = preprocess.resize, preprocess.crop, ("height", "width")
    values: dict[str, Any] = {"do_resize": size is not None}
    if isinstance(size, PatchBudget):
        values |= {"patch_size": size.side, "max_num_patches": size.most}
    else:
        sized = {"shortest_edge": size} if isinstance(size, int) else size and dict(zip(sides, size, strict=True))
        values |= {"size": sized}
    values |= {
        "do_center_crop": crop is not None,
        "crop_size": crop and dict(zip(sides, crop, strict=True)),
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_rescale": True,
        "rescale_factor": preprocess.scale,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


def build_module(folder: Path, known: Description) -> nn.Module:
    """Return the model that config.json describes, its parameters still without values, in evaluation mode.

    Raises EdgelibError for modules that transformers does not build, and for a configuration that does not make one.
    """
    from transformers import GenerationConfig
    from transformers.initialization import no_init_weights

    facts, file = known.facts, "config.json"
    if facts.attention is None:
        raise _needs_like(f"a {facts.wrapper or 'module'} that transformers does not build", folder, facts)
    attention: str | dict = choose(_ATTENTION, facts.attention, "attention implementation")
    if attention == "sdpa":  # what transformers chooses itself, but for parts that have no such attention (Gemma 2)
        attention = {"": attention}
    settings = read_object(folder / file)
    require_layers(folder, settings, _LEAST_LAYERS + (folder / WEIGHTS).stat().st_size // _BYTES_OF_LAYER)
    build = model_class(settings.get("architectures"), file)
    try:
        with quiet_transformers():
            config = build.config_class.from_dict({key: value for key, value in settings.items() if key != "auto_map"})
            with no_init_weights():
                module = build._from_config(config, dtype=known.dtype, attn_implementation=attention)
            module.tie_weights()  # initialisation would have done it
            file = "generation_config.json"
            if (folder / file).is_file():
                module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
                module.generation_config.validate(strict=True)  # as it was when it was written
    except Exception as error:  # transformers and torch each raise their own types
        raise EdgelibError(
            f"{file} of {folder.name!r} does not make a {build.__name__} ({reason_of(error)}); pack the model again"
        ) from None
    return module.eval().requires_grad_(False)


def wrapped(module: nn.Module, folder: Path, facts: Facts):
    """Return the module as the kind of model that was saved; raises EdgelibError for a folder that cannot say how."""
    name, kind = facts.name or folder.name, getattr(getattr(module, "config", None), "model_type", "")
    if facts.wrapper is None:
        return module
    if facts.wrapper == ClipModel.__name__ and dual_encoder(kind, [type(module).__name__]) is not None:
        tokenizer = load_tokenizer(folder)
        require_known_tokens(tokenizer, module, folder)
        return ClipModel(name, module, from_transformers(folder), tokenizer)
    if facts.wrapper == GenerativeModel.__name__ and loader_of(module.config.to_dict()) is not None:
        require_tokenizer(folder)
        model = GenerativeModel(name, module, load_processor(folder))
        require_known_tokens(model.tokenizer, module, folder)
        require_prompt(model, folder, kind)
        return model
    raise _needs_like(f"a {facts.wrapper} without what it needs around them", folder, facts)


def _needs_like(what: str, folder: Path, facts: Facts) -> EdgelibError:
    return EdgelibError(
        f"{folder.name!r} holds the weights of {what}: pass the baseline, as in "
        f"load_packed(folder, like=load({facts.name or 'name'!r}))"
    )


def put_in_place(temporary: Path, folder: Path) -> None:
    """Move a finished folder to its place; an older one disappears only once the new one stands there."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(temporary, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
