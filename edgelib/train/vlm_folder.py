"""What makes a trained `scenes-vlm` an ordinary Hugging Face folder: processor, chat template, configuration."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from edgelib.data.scenes.captions import second_language, vocabulary_text
from edgelib.data.scenes.questions_scene import wording
from edgelib.data.scenes.records import IMAGE_SIZE
from edgelib.train.loop import MEAN, STD

UNKNOWN, PAD = "<unk>", "<|endoftext|>"
START, END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (UNKNOWN, PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
CONTEXT = 256  # tokens
PATCH, MERGE, TEMPORAL = 8, 2, 2
_PROMPTS = (  # what may stand around a question
    "system user assistant",
    "Answer the question using a single word or phrase.",
    "Give a short and true answer to the following question about the image, briefly.",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def _leaves(table) -> Iterator[str]:
    if isinstance(table, dict):
        for key, value in table.items():
            yield str(key)
            yield from _leaves(value)
    elif isinstance(table, list):
        for value in table:
            yield from _leaves(value)
    else:
        yield str(table)


def known_text() -> list[str]:
    """Every phrasing, word table and caption of the embedded world: what the vocabulary is made of."""
    words = second_language()
    endings = {gender["er"] for gender in words["genders"].values()} | {"en"}
    german = [colour + ending for colour in words["colour"].values() for ending in endings]
    digits = [str(number) for number in range(21)]
    tables = [*wording().values(), *words.values()]
    slots_out = [re.sub(r"[{}]", " ", text) for table in tables for text in _leaves(table)]
    return [*slots_out, *german, *digits, *vocabulary_text(), *_PROMPTS]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or mark, in lower case; a word outside the embedded world is the unknown token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(vocab_size=4096, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(known_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        model_max_length=CONTEXT,
        additional_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
    )


def build_processor() -> Qwen2VLProcessor:
    """Tokenizer, chat template and image processor; an image of any size becomes one of about 48 x 48 pixels."""
    size = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}
    grid = dict(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=TEMPORAL)
    pixels = dict(size=size, image_mean=list(MEAN), image_std=list(STD))
    return Qwen2VLProcessor(
        Qwen2VLImageProcessor(**grid, **pixels),
        build_tokenizer(),
        Qwen2VLVideoProcessor(**grid, **pixels),
        chat_template=TEMPLATE,
    )


def vlm_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """The architecture: a vision tower like scenes-clip's, and a decoder with grouped queries and M-RoPE."""
    token = tokenizer.convert_tokens_to_ids
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        tie_word_embeddings=False,
        bos_token_id=token(PAD),
        eos_token_id=token(END),
        pad_token_id=token(PAD),
    )
    vision = dict(
        depth=4,
        embed_dim=128,
        hidden_size=text["hidden_size"],
        hidden_act="gelu",
        mlp_ratio=4,
        num_heads=4,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
    )
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=False,
    )


def save_vlm(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, out: Path) -> None:
    """Write config, half-precision safetensors, tokenizer, chat template and processors; a file is replaced at once."""
    partial = out / "partial"
    copy.deepcopy(model).half().save_pretrained(partial)
    processor.save_pretrained(partial)
    for file in sorted(partial.iterdir()):
        os.replace(file, out / file.name)
    partial.rmdir()
