"""What a family of models that write has for itself; whatever it does not say is as in a chat model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Images = Sequence[Tensor]  # uint8 [3, H, W] each
Inputs = dict[str, Tensor]  # what a network takes, by name


def any_architecture(architecture: str) -> str | None:
    """The automatic class of transformers for models that write about an image."""
    return "AutoModelForImageTextToText"


def by_chat(processor, questions: Sequence[str], image: bool) -> list[str]:
    """One user message for each question, its image first, as the chat template of the processor writes it."""
    shown = [{"type": "image"}] if image else []
    chats = [[{"role": "user", "content": [*shown, {"type": "text", "text": q}]}] for q in questions]
    return processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)


def read_whole(processor, images: Images | None, texts: Sequence[str], answers: Sequence[str]) -> Inputs:
    """The processor's inputs for prompts that end in their answers, padded on the left."""
    images = None if images is None else [[image] for image in images]
    texts = [text + answer for text, answer in zip(texts, answers, strict=True)]
    return dict(processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt"))


def image_token_of(config) -> int | None:
    """The image token that a configuration names, None if it names none."""
    return getattr(config, "image_token_id", getattr(config, "image_token_index", None))


def end_tokens_of(module: nn.Module) -> list[int]:
    """The end tokens of the generation configuration."""
    stop = module.generation_config.eos_token_id
    return list(stop) if isinstance(stop, list | tuple) else [stop]


def decoder_alone(module: nn.Module) -> list[nn.Module]:
    """The text decoder, as transformers names it."""
    return [module.get_decoder()]


def encode_images(module: nn.Module, pixels: Mapping[str, Tensor]):
    """What transformers makes of the images of a batch, an output with `pooler_output` and what else its decoder reads.

    pixels: inputs of the processor, of which it takes what `vision_inputs` names. Raises AttributeError for a class of
    transformers that does not encode images apart.
    """
    taken = {name: pixels[name] for name in vision_inputs(module) if name in pixels}
    return module.base_model.get_image_features(**taken, return_dict=True)


def vision_inputs(module: nn.Module) -> tuple[str, ...]:
    """The names of the inputs that only the vision tower reads; empty where images are not encoded apart."""
    encode = getattr(module.base_model, "get_image_features", None)
    if encode is None or "mm_encoder_outputs" not in inspect.signature(module.forward).parameters:
        return ()
    return tuple(name for name in inspect.signature(encode).parameters if name != "kwargs")


@dataclass(frozen=True)
class Family:
    """How models of one family are asked and read. Its functions stand at the top of a module: processes share it.

    types: its names in config.json ("model_type"). Then, each with a default that fits a chat model of transformers:
    loader: name of the automatic class of transformers that loads an architecture, None for one that does not write.
    prompt: (processor, questions, with an image?) -> what the model is given to read before each answer.
    read: (processor, images or None, prompts, answers to append or "") -> inputs [n, ...], padded on the left.
    pads: whether questions of several lengths may share a batch: not where positions do not follow the mask.
    image_token: configuration -> id of the token that stands for a piece of an image, None where images enter by
    cross-attention. end_tokens: network -> ids of the tokens that end an answer. text_parts: network -> its modules
    that read or write text, the decoder first. encode: (network, inputs) -> what its decoder reads of the images, which
    questions about one image may share; None where the images are encoded with every question.
    """

    types: tuple[str, ...] = ()
    loader: Callable[[str], str | None] = any_architecture
    prompt: Callable[[object, Sequence[str], bool], list[str]] = by_chat
    read: Callable[[object, Images | None, Sequence[str], Sequence[str]], Inputs] = read_whole
    pads: bool = True
    image_token: Callable[[object], int | None] = image_token_of
    end_tokens: Callable[[nn.Module], list[int]] = end_tokens_of
    text_parts: Callable[[nn.Module], list[nn.Module]] = decoder_alone
    encode: Callable[[nn.Module, Mapping[str, Tensor]], object] | None = encode_images

    @property
    def chats(self) -> bool:
        """Whether a chat template has to write the prompt."""
        return self.prompt is by_chat
