"""What makes a trained `scenes-clip` an ordinary Hugging Face folder: tokenizer, configuration, files, model card."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from edgelib.data.scenes.captions import vocabulary_text
from edgelib.train.card import write_card
from edgelib.train.loop import MEAN, STD

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 32  # tokens


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE trained on every caption of the world; other text is spelled in bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[END, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(vocabulary_text(), trainer)
    ends = [(START, tokenizer.token_to_id(START)), (END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )


def clip_config(tokenizer: PreTrainedTokenizerFast, image_size: int) -> CLIPConfig:
    """The architecture: two small transformers of width 128."""
    tower = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "projection_dim": 128,
        "hidden_act": "gelu",
    }
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPConfig(
        vision_config={**tower, "num_hidden_layers": 4, "image_size": image_size, "patch_size": 8},
        text_config={
            **tower,
            **ids,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
        },
        projection_dim=128,
    )


def save_clip(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, out: Path, *, recipe: dict, accuracy: float
) -> None:
    """Write config, half-precision safetensors, tokenizer, preprocessor and model card."""
    size = model.config.vision_config.image_size
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessor(
        size={"height": size, "width": size},
        crop_size={"height": size, "width": size},
        do_center_crop=False,
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(out)
    what = 'A CLIP, classes compared with the prompt "a photo of a {shape}."'
    write_card(out, "scenes-clip", "transformers", what, recipe, accuracy, sum(p.numel() for p in model.parameters()))
