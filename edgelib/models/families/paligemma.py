"""PaliGemma and PaliGemma 2 (Beyer et al., 2024; Steiner et al., 2024): no chat, and a prompt that looks ahead.

The model reads image tokens, <bos>, the question and a line feed, all of which see each other; only what it writes is
causal. `token_type_ids` tell the two apart: 0 for the prompt, 1 for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgelib.models.families.base import Family, Images, Inputs


def plain(processor, questions: Sequence[str], image: bool) -> list[str]:
    """The place of the image and the question; <bos> and the line feed are added as the prompt is read."""
    return [f"{processor.image_token}{q}" if image else q for q in questions]


def read(processor, images: Images | None, texts: Sequence[str], answers: Sequence[str]) -> Inputs:
    """The answers as suffixes, so that they are causal; the processor takes no text without an image, its tokenizer
    does."""
    options = dict(padding=True, padding_side="left", return_tensors="pt")
    options |= {"text_pair": list(answers)} if any(answers) else {}
    if images is None:
        texts = [f"{processor.tokenizer.bos_token}{text}\n" for text in texts]
        return dict(processor.tokenizer(texts, return_token_type_ids=True, **options))
    made = dict(processor(images=[[image] for image in images], text=list(texts), **options))
    made.pop("labels", None)  # for training
    return made


FAMILY = Family(types=("paligemma",), prompt=plain, read=read)
