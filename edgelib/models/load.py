"""Load a model by hub id, local folder or embedded name; all three end in the same folder of safetensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.hub import ask_hub, first_line, local_hint
from edgelib.ground.modules import converted
from edgelib.ground.records import shown
from edgelib.ground.separate import separated
from edgelib.models.checks import (
    is_fault,
    reason_of,
    require_baseline,
    require_finite,
    require_known_tokens,
    require_layers,
    require_shards,
    require_whole,
    stored_types,
)
from edgelib.models.families.duals import dual_encoder, dual_types
from edgelib.models.families.writers import HOW_TO_ADD, WRITERS, loader_of, writing_types
from edgelib.models.generative import GenerativeModel
from edgelib.models.generative_folder import load_generative, load_processor, quiet_transformers
from edgelib.models.preprocess import from_timm, from_transformers, read_object, require_fit
from edgelib.models.zero_shot import (
    ClipModel,
    TimmClassifier,
    ZeroShotModel,
    prompts_of,
    require_short,
    require_trained,
)

EMBEDDED = Path(__file__).parent / "embedded"  # each folder in it is a model named after the folder
_SHAPE = (96, 64)  # height and width of the image on which a model that writes is tried
_WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("*.model",))  # each of them is a whole tokenizer
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def embedded_models(writes: bool = False) -> list[str]:
    """Names of the models that ship with the package: those that classify images, or those that write text."""
    names = sorted(p.name for p in EMBEDDED.iterdir() if (p / "config.json").is_file())
    return [name for name in names if (loader_of(read_object(EMBEDDED / name / "config.json")) is not None) == writes]


def load(
    name_or_path: str | Path, *, device: str = "cpu", dtype: torch.dtype | str | None = None, offline: bool = False
) -> ZeroShotModel | GenerativeModel:
    """Return the model called `name_or_path`: a hub id, a local Hugging Face or timm folder, or an embedded name.

    Weights are read from safetensors only, checked to be finite and kept in `dtype` (float32 if None): a torch dtype
    or its name; rotary frequencies stay in float32, as transformers keeps them. With `offline` a hub id is looked up in
    the local cache only. Code of a folder never runs. Packed attention and the experts of a mixture become Linears, as
    `edgelib.ground.separate` says. A GGUF file comes back as `load_gguf` reads it, dequantized.
    Raises EdgelibError for a device that is not there, a dtype that is not floating, a name that leads nowhere, a hub
    that cannot be reached, pickled or damaged weights, a checkpoint that is quantized already, weights that are not
    finite, weights that the file lacks or the configuration has no place for, configurations that are broken or with
    which the model cannot read an image,
    unsupported families, and packages that a family needs.
    """
    if _local(name_or_path).suffix == ".gguf" and _local(name_or_path).is_file():
        from edgelib.models.gguf.reader import load_gguf

        return load_gguf(_local(name_or_path))
    require_device(device)
    dtype = _floating("float32" if dtype is None else dtype)
    folder = model_folder(str(name_or_path), offline=offline)
    config = require_loadable(folder)
    # What tables and figures call it: never a machine's path.
    name = folder.resolve().name if _local(name_or_path).is_dir() else str(name_or_path)
    model: ZeroShotModel | GenerativeModel
    if "architecture" in config:
        model = _load_timm(name, folder, config)
    elif dual_encoder(config.get("model_type"), config.get("architectures")) is not None:
        model = _load_dual_encoder(name, folder, config)
    else:
        model = load_generative(name, folder, config)
    require_finite(model.module, folder)
    _require_run(model, folder)
    module = converted(separated(model.module), dtype).to(device).eval().requires_grad_(False)
    return model.with_module(module)


def require_loadable(folder: Path) -> dict:
    """Return the configuration of a folder that can be loaded as far as its files tell before weights are read.

    Raises EdgelibError, as `load` does, for a broken configuration, no weights or no tokenizer, damaged headers, a
    checkpoint that is quantized already and an unsupported family.
    """
    _refuse_open_clip(folder)
    config = read_object(folder / "config.json")
    types = stored_types(folder)
    require_baseline(folder, config, types)
    require_layers(folder, config, len(types))
    if "architecture" in config:
        return config
    if dual_encoder(config.get("model_type"), config.get("architectures")) is None and loader_of(config) is None:
        raise _unknown_family(folder, config)
    require_shards(folder)
    require_tokenizer(folder)
    if dual_encoder(config.get("model_type"), config.get("architectures")) is not None:
        said = config.get("vision_config")
        require_fit(from_transformers(folder), said.get("image_size") if isinstance(said, dict) else None, folder)
    return config


def require_readers(folder: Path, config: dict) -> None:
    """Raise EdgelibError, before weights are read, for a tokenizer or processor that does not load.

    config: what `require_loadable` returned.
    """
    if "architecture" in config:
        return
    if dual_encoder(config.get("model_type"), config.get("architectures")) is not None:
        load_tokenizer(folder)
    else:
        load_processor(folder)


def require_classes(folder: Path, class_names: Sequence[str], templates: Sequence[str], name: str) -> None:
    """Raise EdgelibError, before weights are read, for classes that a folder's classifier cannot be asked for.

    A prompt may be longer than the model reads; a supervised classifier knows no classes but its own.
    """
    config, context = read_object(folder / "config.json"), None
    if "architecture" in config:
        require_trained(class_names, _label_names(config, None, folder), name)
    elif dual_encoder(config.get("model_type"), config.get("architectures")) is not None:
        with suppress(Exception), quiet_transformers():  # what is wrong with the configuration, loading says
            from transformers import AutoConfig

            said = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            context = said.text_config.max_position_embeddings
        if isinstance(context, int):
            require_short(prompts_of(class_names, templates), load_tokenizer(folder), context, name)


def _require_run(model: ZeroShotModel | GenerativeModel, folder: Path) -> None:
    """Raise EdgelibError for a model that cannot run: some settings of wrong type or size show only then."""
    try:
        with quiet_transformers(), torch.no_grad():
            if isinstance(model, GenerativeModel):
                image = torch.zeros(3, *_SHAPE, dtype=torch.uint8)
                how: Any = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
                made = model.module.generate(**model.inputs([image], ["what is it"]), **how).logits[0]
            else:
                model.probe()
                made = model.encode_images(torch.zeros(1, 3, *_SHAPE, dtype=torch.uint8))
    except EdgelibError:
        raise
    except Exception as error:
        reason = reason_of(error)
    else:
        reason = "what it computes is not a number" if bool(made.isnan().any()) else ""
    if reason:
        raise EdgelibError(
            f"{folder} loads, but its model cannot read a blank image: {reason}; copy its .json files from the model's "
            "repository"
        )


def model_folder(name: str, *, offline: bool = False) -> Path:
    """Return the local folder of a model: embedded, given, or fetched from the hub into its cache."""
    if os.path.isfile(EMBEDDED / name / "config.json"):  # unlike Path.is_file, it takes any name
        return EMBEDDED / name
    if os.path.isdir(_local(name)):
        return _local(name)
    if os.path.isfile(_local(name)):
        raise EdgelibError(f"{name!r} is a file; a model is a folder with config.json and its .safetensors files")
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        embedded = embedded_models() + embedded_models(writes=True)
        raise EdgelibError(
            f"no model {name!r}{did_you_mean(name, embedded)}: it is neither an embedded model "
            f"({', '.join(embedded)}) nor an existing folder; a hub id reads owner/name"
        )
    return _hub_folder(name, offline)


def _hub_folder(name: str, offline: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    offline = offline or constants.HF_HUB_OFFLINE
    if not offline:
        ask_hub(name, "model")
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED_FILES), local_files_only=offline))
    except Exception as error:  # the package raises many types, from network to disk
        where = "is not in the local cache" if offline else "could not be fetched from the hub"
        raise EdgelibError(f"model {name!r} {where} ({first_line(error)}); {local_hint(name, 'model')}") from None


def _refuse_open_clip(folder: Path) -> None:
    """Raise EdgelibError for a folder in the layout of open_clip alone, saying which network it holds."""
    told = folder / "open_clip_config.json"
    if (folder / "config.json").is_file() or not told.is_file():
        return
    config = read_object(told).get("model_cfg", {})
    tower = config.get("vision_cfg", {}) if isinstance(config, dict) else {}
    tower = tower if isinstance(tower, dict) else {}
    if tower.get("timm_model_name"):
        what = f"whose image tower is timm's {shown(tower['timm_model_name'])}, no vision transformer of CLIP"
    elif isinstance(tower.get("layers"), list):
        what = "whose image tower is a ResNet, no vision transformer of CLIP"
    else:
        what = "whose weights have other names than the CLIP of transformers"
    raise EdgelibError(
        f"{folder} holds a model of open_clip, {what}; take a folder of the same model in the layout of transformers "
        "(config.json, model.safetensors, tokenizer.json, preprocessor_config.json), where its publisher has one, or "
        f"another of {', '.join(dual_types())}"
    )


def _local(name: str | Path) -> Path:
    return Path(os.path.expanduser(name))  # unlike Path.expanduser, it leaves an unknown user's ~name alone


def require_device(device: str | torch.device) -> None:
    """Raise EdgelibError for a device that this machine does not have, naming those that it has."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if str(device) not in there:
        raise EdgelibError(f"there is no device {str(device)!r} on this machine; choose from {', '.join(there)}")


def _floating(dtype: torch.dtype | str) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise EdgelibError(
            f"dtype {dtype!r} cannot hold a model's weights; choose from torch.{', torch.'.join(_DTYPES)} "
            "(integer formats come from edgelib.quantize, not from here)"
        )
    return _DTYPES[name]


def _unknown_family(folder: Path, config: dict) -> EdgelibError:
    import transformers

    kind, families = config.get("model_type", "model of unknown type"), writing_types()
    known_kinds = [*families, *dual_types()]
    kind = shown(kind) + ("" if kind in known_kinds else did_you_mean(kind, known_kinds))
    named = config.get("architectures") or "of no architecture"
    architectures = shown(", ".join(map(str, named)) if isinstance(named, list) else named).strip("'")
    known = ", ".join(sorted({name for family in WRITERS for name in family.types}))
    return EdgelibError(
        f"{folder} holds a {kind} ({architectures}); zero-shot classification needs one of {', '.join(dual_types())}, "
        f"or a timm classifier (config.json with 'architecture'); answering needs one of {known}, or of the "
        f"{len(families)} families that the installed transformers {transformers.__version__} can load without "
        f"running code from a repository, such as qwen2_vl, idefics3 and llava_onevision. For another, {HOW_TO_ADD}"
    )


def require_tokenizer(folder: Path) -> None:
    """Raise EdgelibError for a folder without a tokenizer: transformers would build an empty one and say nothing."""
    if not any(all(any(folder.glob(pattern)) for pattern in whole) for whole in _TOKENIZERS):
        raise EdgelibError(
            f"{folder} has no tokenizer: it needs tokenizer.json, or vocab.json and merges.txt, or a sentencepiece "
            "*.model; copy them from the model's repository"
        )


def _load_dual_encoder(name: str, folder: Path, config: dict) -> ClipModel:
    import transformers

    family = dual_encoder(config.get("model_type"), config.get("architectures"))
    build = getattr(transformers, next(iter(family.classes), "AutoModel"))
    try:
        with quiet_transformers():
            module, info = build.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
                trust_remote_code=False,
            )
    except Exception as error:  # torch, safetensors and transformers each raise their own types
        raise EdgelibError(f"{folder} does not load as a {config['model_type']} model: {reason_of(error)}") from None
    require_whole(folder, info)
    preprocess = from_transformers(folder)
    require_fit(preprocess, getattr(module.config.vision_config, "image_size", None), folder)
    tokenizer = load_tokenizer(folder)
    require_known_tokens(tokenizer, module, folder)
    return ClipModel(name=name, module=module, preprocess=preprocess, tokenizer=tokenizer)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in `folder`; raises EdgelibError for one that is missing or broken."""
    from transformers import AutoTokenizer

    require_tokenizer(folder)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer("a")  # some settings of wrong type show only now
            return tokenizer
    except BaseException as error:  # transformers and tokenizers raise their own types; Rust's panics are no Exception
        if not is_fault(error):
            raise
        raise EdgelibError(
            f"the tokenizer of {folder} does not load: {reason_of(error, 'copy its files from the repository')}"
        ) from None


def _load_timm(name: str, folder: Path, config: dict) -> TimmClassifier:
    import timm

    try:
        module = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
        preprocess = from_timm(timm.data.resolve_model_data_config(module))
    except EdgelibError:
        raise
    except Exception as error:  # timm checks little: any type may come out of a wrong configuration
        reason = reason_of(error, "copy config.json from the model's repository, or install a timm that knows it")
        raise EdgelibError(f"{folder} does not load as a timm model: {reason}") from None
    names = _label_names(config, module.num_classes, folder)
    patches = getattr(module, "patch_embed", None)
    require_fit(
        preprocess, getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None, folder
    )
    model = TimmClassifier(name=name, module=module.eval(), preprocess=preprocess, label_names=names)
    return model


def _label_names(config: dict, outputs: int | None, folder: Path) -> tuple[str, ...]:
    """The names of a timm model's outputs, in order, in the words of its label_descriptions where it has some.

    outputs: how many there are, None where that is not known yet.
    """
    pretrained = config.get("pretrained_cfg")
    labels = config.get("label_names") or (isinstance(pretrained, dict) and pretrained.get("label_names"))
    if not labels:
        raise EdgelibError(
            f"{folder / 'config.json'} has no label_names, so its outputs have no meaning here; "
            'add "label_names": [...] in the order of the outputs'
        )
    if isinstance(labels, dict):
        labels = [labels.get(str(i)) for i in range(len(labels))]
    outputs = len(labels) if outputs is None and isinstance(labels, list) else outputs
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels) or len(labels) != outputs:
        raise EdgelibError(
            f"{folder / 'config.json'}: label_names is {shown(labels)}, but must be a list of {outputs} names, one for "
            "each output in order; copy the file from the model's repository"
        )
    descriptions = config.get("label_descriptions")
    words = descriptions if isinstance(descriptions, dict) else {}
    return tuple(str(words.get(key, key)) for key in labels)
