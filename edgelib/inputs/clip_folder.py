"""What makes a trained `scenes-clip` an ordinary Hugging Face folder: tokenizer, configuration, files, model card."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from edgelib.inputs.captions import vocabulary_text

START, END = "<|startoftext|>", "<|endoftext|>"
MEAN = STD = (0.5, 0.5, 0.5)
CONTEXT = 32  # tokens


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE trained on every caption of the world; any other text still has a spelling in bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[END, START], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(vocabulary_text(), trainer)
    ends = [(START, tokenizer.token_to_id(START)), (END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )


def clip_config(tokenizer: PreTrainedTokenizerFast, image_size: int) -> CLIPConfig:
    """The architecture: two small transformers of width 128."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "projection_dim": 128,
             "hidden_act": "gelu"}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return CLIPConfig(
        vision_config={**tower, "num_hidden_layers": 4, "image_size": image_size, "patch_size": 8},
        text_config={
            **tower, **ids, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT,
        },
        projection_dim=128,
    )  # fmt: skip


def pixel_values(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, normalised as the folder's preprocessor does."""
    return (images.float() / 255.0 - MEAN[0]) / STD[0]


def _card(recipe: dict, log: list[dict], test_accuracy: float, test_n: int, digest: str, parameters: int) -> str:
    half = 1.96 * (test_accuracy * (1 - test_accuracy) / test_n) ** 0.5
    lines = [
        "---", "license: apache-2.0", "library_name: transformers", "tags: [clip, synthetic]", "---",
        "# scenes-clip", "",
        f"A CLIP of {parameters:,} parameters trained from scratch on procedural scenes (`edgelib.inputs.scenes`), a small",
        "synthetic world. It exists so that quantization experiments run offline; it knows nothing of photographs.", "",
        f"- Data: {recipe['steps'] * recipe['batch']:,} scenes of split `train`, seed {recipe['seed']}, each seen once.",
        f"- Recipe: `{json.dumps(recipe, sort_keys=True)}`; retrain with `edgelib train scenes-clip --out FOLDER`.",
        f"- Clean zero-shot accuracy, ten shapes, {test_n:,} scenes of split `test`: {test_accuracy:.4f} "
        f"(95 % interval {test_accuracy - half:.4f} to {test_accuracy + half:.4f}, normal approximation).",
        f"- Best validation accuracy in the log: {max(r['zero_shot_accuracy'] for r in log):.3f} (`training_log.csv`).",
        f"- SHA-256 of `model.safetensors`: `{digest}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def save_folder(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, out: Path, *, recipe: dict, log: list[dict],
    test_accuracy: float, test_n: int,
) -> None:  # fmt: skip
    """Write config, half-precision safetensors, tokenizer, preprocessor and model card."""
    size = model.config.vision_config.image_size
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessor(
        size={"height": size, "width": size}, crop_size={"height": size, "width": size}, do_center_crop=False,
        image_mean=list(MEAN), image_std=list(STD),
    ).save_pretrained(out)  # fmt: skip
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    card = _card(recipe, log, test_accuracy, test_n, digest, sum(p.numel() for p in model.parameters()))
    temporary = out / "README.md.tmp"
    temporary.write_text(card)
    os.replace(temporary, out / "README.md")
