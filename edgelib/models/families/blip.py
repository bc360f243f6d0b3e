"""BLIP (Li et al., 2022): it reads the bare question, and its text layers look at the image by cross-attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from edgelib.models.families.base import Family, Images, Inputs


def loader(architecture: str) -> str | None:
    """BLIP has a class for each task; the one that ranks texts by image does not write."""
    if architecture.endswith("Retrieval"):
        return None
    answers = architecture.endswith("ForQuestionAnswering")
    return "AutoModelForVisualQuestionAnswering" if answers else "AutoModelForImageTextToText"


def bare(processor, questions: Sequence[str], image: bool) -> list[str]:
    """The questions themselves."""
    return list(questions)


def read(processor, images: Images | None, texts: Sequence[str], answers: Sequence[str]) -> Inputs:
    """Question and answer with a space between them."""
    images = None if images is None else [[image] for image in images]
    texts = [f"{text} {answer}".strip() for text, answer in zip(texts, answers, strict=True)]
    return dict(processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt"))


def text_parts(module: nn.Module) -> list[nn.Module]:
    """The decoder, and the encoder of the question where there is one."""
    return [part for part in (module.get_decoder(), getattr(module, "text_encoder", None)) if part is not None]


def no_image_token(config) -> None:
    """Images enter by cross-attention."""


def separator(module: nn.Module) -> list[int]:
    """The separator, where BLIP's own `generate` stops."""
    return [module.get_decoder().config.sep_token_id]


FAMILY = Family(
    types=("blip",),
    loader=loader,
    prompt=bare,
    read=read,
    pads=False,  # absolute positions are counted from the left end, padding included
    image_token=no_image_token,
    end_tokens=separator,
    text_parts=text_parts,
    encode=None,
)
