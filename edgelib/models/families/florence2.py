"""Florence-2 (Xiao et al., 2024): BART reads the image tokens and the question, and writes the answer from them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from edgelib.models.families.base import Family, Images, Inputs


def plain(processor, questions: Sequence[str], image: bool) -> list[str]:
    """The question between <s> and </s>, behind the places of its image."""
    words = processor.tokenizer
    places = processor.image_token * processor.num_image_tokens if image else ""
    return [f"{places}{words.bos_token}{question}{words.eos_token}" for question in questions]


def read(processor, images: Images | None, texts: Sequence[str], answers: Sequence[str]) -> Inputs:
    """Tokens and pixels, each by its part of the processor. Answers are left out: the encoder never reads them."""
    options = dict(padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    made = dict(processor.tokenizer(list(texts), **options))
    return made if images is None else made | dict(processor.image_processor(images=list(images), return_tensors="pt"))


def text_parts(module: nn.Module) -> list[nn.Module]:
    """Decoder and encoder of BART."""
    return [module.model.language_model.decoder, module.model.language_model.encoder]


FAMILY = Family(
    types=("florence2",),
    prompt=plain,
    read=read,
    pads=False,  # BART counts positions from the left end, padding included
    text_parts=text_parts,
    encode=None,
)
