"""PaliGemma and PaliGemma 2 (Beyer et al., 2024; Steiner et al., 2024): no chat, and a prompt that looks ahead.

The model reads image tokens, <bos>, the question and a line feed, all of which see each other; only what it writes is
causal. `token_type_ids` tell the two apart: 0 for the prompt, 1 for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgelib.models.families.base import Family, Images, Inputs


def plain(processor, questions: Sequence[str], image: bool) -> list[str]:
    """The question between <bos> and a line feed, behind the places of its image."""
    places = processor.image_token * processor.image_seq_length if image else ""
    return [f"{places}{processor.tokenizer.bos_token}{question}\n" for question in questions]


def read(processor, images: Images | None, texts: Sequence[str], answers: Sequence[str]) -> Inputs:
    """Tokens and pixels, each by its part of the processor, which as a whole takes no text without an image."""
    options = dict(padding=True, padding_side="left", return_token_type_ids=True, return_tensors="pt")
    second = {"text_pair": list(answers)} if any(answers) else {}
    made = dict(processor.tokenizer(list(texts), **second, **options))
    return made if images is None else made | dict(processor.image_processor(images=list(images), return_tensors="pt"))


FAMILY = Family(types=("paligemma",), prompt=plain, read=read)
