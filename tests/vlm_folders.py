"""Small generative models with random weights, saved as the Hugging Face folders that real ones come in."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

START, END, PAD, IMAGE = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|image_pad|>"
VISION_START, VISION_END, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
WORDS = ["Ġ" + w for w in "is there a red circle in the image yes no what colour please answer or how many".split()]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}@IMAGE@"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """Bytes, a few words, and the given special tokens."""
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "yes", "no", *WORDS]
    built = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="Ġ"))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token=PAD, eos_token=END, **named)


def qwen2_vl(out: Path, seed: int = 0, context: int = 256) -> Path:
    """A Qwen2-VL with two layers, grouped queries, biased k_proj and a vision tower of two blocks: 48 px, 16 tokens."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    special = [PAD, START, END, VISION_START, IMAGE, VISION_END, VIDEO]
    words = tokenizer(special)
    ids = {word: words.convert_tokens_to_ids(word) for word in special}
    config = Qwen2VLConfig(
        text_config=dict(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            bos_token_id=ids[START],
            eos_token_id=ids[END],
            pad_token_id=ids[PAD],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        ),
        vision_config=dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=6),
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )
    sizes = dict(patch_size=6, temporal_patch_size=2, merge_size=2, size=dict(shortest_edge=144, longest_edge=9216))
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT.replace("@IMAGE@", VISION_START + IMAGE + VISION_END),
    )
    return _saved(Qwen2VLForConditionalGeneration, config, processor, out, seed)


def idefics3(out: Path, seed: int = 0) -> Path:
    """An Idefics3, of which SmolVLM is a sibling: SigLIP tower, pixel shuffle, Llama decoder."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    special = [PAD, START, END, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    words = tokenizer(special)
    ids = {word: words.convert_tokens_to_ids(word) for word in special}
    config = Idefics3Config(
        text_config=dict(
            model_type="llama",
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=ids[PAD],
            bos_token_id=ids[START],
            eos_token_id=ids[END],
        ),
        vision_config=dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids[PAD],
    )
    sizes = dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False)
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**sizes), words, image_seq_len=4, chat_template=CHAT.replace("@IMAGE@", "<image>")
    )
    return _saved(Idefics3ForConditionalGeneration, config, processor, out, seed)


def llava_onevision(out: Path, seed: int = 0) -> Path:
    """A LLaVA-OneVision: SigLIP tower, an image cut into tiles, Qwen2 decoder."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
    )
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

    special = [PAD, START, END, "<image>", "<video>"]
    words = tokenizer(special)
    ids = {word: words.convert_tokens_to_ids(word) for word in special}
    config = LlavaOnevisionConfig(
        text_config=dict(
            model_type="qwen2",
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=ids[PAD],
            bos_token_id=ids[START],
            eos_token_id=ids[END],
        ),
        vision_config=dict(
            model_type="siglip_vision_model",
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            vision_use_head=False,
        ),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        image_grid_pinpoints=[[32, 32], [32, 64]],
        vision_aspect_ratio="anyres_max_9",
    )
    size = dict(size={"height": 32, "width": 32})
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(**size, image_grid_pinpoints=[[32, 32], [32, 64]]),
        words,
        LlavaOnevisionVideoProcessor(**size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT.replace("@IMAGE@", "<image>"),
        vision_aspect_ratio="anyres_max_9",
    )
    return _saved(LlavaOnevisionForConditionalGeneration, config, processor, out, seed)


def blip(out: Path, seed: int = 0, answering: bool = True) -> Path:
    """A BLIP that answers questions (encoder and decoder), or one that continues a text."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipForQuestionAnswering,
        BlipImageProcessor,
        BlipProcessor,
    )

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    pieces = [*special, *(w.removeprefix("Ġ") for w in WORDS), *"?.,abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=256)
    config = BlipConfig(
        text_config=dict(
            vocab_size=len(words),
            hidden_size=32,
            encoder_hidden_size=32,
            intermediate_size=64,
            projection_dim=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=5,
            eos_token_id=3,
            sep_token_id=3,
            pad_token_id=0,
        ),
        vision_config=dict(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        projection_dim=16,
    )
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), words)
    return _saved(BlipForQuestionAnswering if answering else BlipForConditionalGeneration, config, processor, out, seed)


def _saved(family, config, processor, out: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = family(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4  # answers that differ between questions and end at different lengths
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
