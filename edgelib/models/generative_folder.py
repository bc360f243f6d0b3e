"""Load a model that writes from a Hugging Face folder: its own classes of transformers, never code from the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgelib.errors import EdgelibError
from edgelib.models.checks import is_fault, reason_of, require_known_tokens, require_whole
from edgelib.models.families.writers import HOW_TO_ADD, loader_of
from edgelib.models.generative import GenerativeModel
from edgelib.models.preprocess import LARGEST_SIDE

_LEAST_AREA = 1 << 22  # pixels that small images may be enlarged to
_COPY_PROCESSOR = (
    "copy preprocessor_config.json, processor_config.json and the tokenizer's files from the model's repository"
)


def load_generative(name: str, folder: Path, config: dict) -> GenerativeModel:
    """Return the model in `folder`. What its generation_config.json says of sampling is dropped: answers are greedy.

    Raises EdgelibError for a folder that does not load, lacks weights, a processor, a chat template or an image token.
    """
    import transformers

    auto = getattr(transformers, loader_of(config))
    with quiet_transformers():
        try:
            module, info = auto.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
                trust_remote_code=False,
            )
        except Exception as error:  # transformers, torch and safetensors each raise their own types
            raise EdgelibError(
                f"{folder} does not load as a {config['model_type']} model: {reason_of(error)}"
            ) from None
    require_whole(folder, info)
    model = GenerativeModel(name=name, module=module, processor=load_processor(folder))
    require_known_tokens(model.tokenizer, module, folder)
    try:
        require_prompt(model, folder, config["model_type"])
    except EdgelibError:
        raise
    except Exception as error:  # a template is a small program, whose mistakes have many types
        raise EdgelibError(
            f"the chat template of {folder} does not run: {reason_of(error)}; copy chat_template.jinja from the "
            "model's repository"
        ) from None
    _decode_greedily(model)
    return model


def load_processor(folder: Path) -> Any:
    """Return the processor of images and texts in `folder`; raises EdgelibError for one that is missing or broken."""
    from transformers import AutoProcessor

    try:
        with quiet_transformers():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            getattr(processor, "tokenizer", str)("a")  # some settings of wrong type show only now
    except BaseException as error:  # transformers and tokenizers raise their own types; Rust's panics are no Exception
        if not is_fault(error):
            raise
        raise EdgelibError(f"the processor of {folder} does not load: {reason_of(error, _COPY_PROCESSOR)}") from None
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise EdgelibError(
            f"{folder} has a {type(processor).__name__} where a processor of images and texts is needed; copy "
            "preprocessor_config.json and the tokenizer's files from the model's repository"
        )
    _require_sizes(processor.image_processor, folder)
    return processor


def _require_sizes(prepares: Any, folder: Path) -> None:
    """Raise EdgelibError for a size in the settings of an image processor that no image should be brought to.

    Where images keep their shape in whole patches, both edges are areas, as transformers has it.
    """
    areas = hasattr(prepares, "merge_size")
    for key in ("size", "crop_size", "max_image_size", "min_pixels", "max_pixels"):
        value = getattr(prepares, key, None)
        named = value if isinstance(value, dict) else getattr(value, "__dict__", {key: value})  # SizeDict is no mapping
        for name, number in named.items():
            area = areas and name in ("shortest_edge", "longest_edge", "min_pixels", "max_pixels")
            least = name in ("shortest_edge", "min_pixels")
            most = (_LEAST_AREA if least else LARGEST_SIDE**2) if area else LARGEST_SIDE
            if isinstance(number, int | float) and not 0 < number <= most:
                raise EdgelibError(
                    f"{folder}: {name} of {key} of the image processor is {number!r}, but must be from 1 to {most:,} "
                    "pixels; copy preprocessor_config.json (or processor_config.json) from the model's repository"
                )


def require_prompt(model: GenerativeModel, folder: Path, kind: str) -> None:
    """Raise EdgelibError unless images have a place in the model's prompts.

    A chat model of the type `kind` needs a template that places the image, and its tokenizer the token for it.
    """
    if model.family.chats and model.image_token is None:
        raise EdgelibError(
            f"{folder / 'config.json'} names no image token (image_token_id), so the model cannot tell where an image "
            "goes; copy the file from the model's repository"
        )
    if model.family.chats and getattr(model.processor, "chat_template", None) is None:
        raise EdgelibError(
            f"{folder} has no chat template, so nobody knows how a {kind} wants to be asked; copy "
            "chat_template.jinja (or chat_template.json) from the repository of the instruction-tuned model, or, if "
            f"the family does not chat, {HOW_TO_ADD}"
        )
    if model.family.chats and model.prompts(["a"]) == model.prompts(["a"], image=False):
        raise EdgelibError(
            f"the chat template of {folder} leaves out the image, so the model would answer blindly; take the template "
            "of the model's repository (chat_template.jinja)"
        )
    if model.image_token is not None and model.image_token >= len(model.tokenizer):
        raise EdgelibError(
            f"{folder}: the image token {model.image_token} is not in the tokenizer, which has {len(model.tokenizer)} "
            "tokens; copy the tokenizer's files from the model's repository"
        )


def _decode_greedily(model: GenerativeModel) -> None:
    from transformers import GenerationConfig

    said, own = model.module.generation_config, model.module.config.get_text_config()
    stop = said.eos_token_id if said.eos_token_id is not None else own.eos_token_id
    stop = model.tokenizer.eos_token_id if stop is None else stop
    pad = said.pad_token_id if said.pad_token_id is not None else model.tokenizer.pad_token_id
    first = stop[0] if isinstance(stop, list) else stop
    model.module.generation_config = GenerationConfig(
        eos_token_id=stop,
        pad_token_id=first if pad is None else pad,
        bos_token_id=said.bos_token_id,
        decoder_start_token_id=said.decoder_start_token_id,
        do_sample=False,
        num_beams=1,
    )
    if model.tokenizer.pad_token_id is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep bars, notes and questions of transformers off the screen while the block runs.

    Where a folder brings code, transformers asks on the terminal whether to run it, also in places that
    `trust_remote_code=False` does not reach (the audio tokenizer of a processor); no time to answer makes it an error.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
