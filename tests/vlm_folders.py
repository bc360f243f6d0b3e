"""Small generative models with random weights, saved as the Hugging Face folders that real ones come in."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

START, END, PAD, IMAGE = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|image_pad|>"
VISION_START, VISION_END, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
QWEN = [PAD, START, END, VISION_START, IMAGE, VISION_END, VIDEO]
WORDS = ["Ġ" + w for w in "is there a red circle in the image yes no what colour please answer or how many".split()]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}@IMAGE@"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
SIGLIP = VISION | dict(model_type="siglip_vision_model", image_size=32, patch_size=8, vision_use_head=False)


def tokenizer(special: list[str], **named) -> PreTrainedTokenizerFast:
    """Bytes, a few words, and the given special tokens."""
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "yes", "no", *WORDS]
    built = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="Ġ"))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token=PAD, eos_token=END, **named)


def small_decoder(words: PreTrainedTokenizerFast, context: int = 256, **more) -> dict:
    """The configuration of two layers with grouped queries."""
    token = words.convert_tokens_to_ids
    base = dict(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        pad_token_id=token(PAD),
        bos_token_id=token(START),
        eos_token_id=token(END),
    )
    return base | more


def _rope(*sections: int) -> dict:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}


def _chat(image: str) -> str:
    return CHAT.replace("@IMAGE@", image)


def qwen2_vl(out: Path, seed: int = 0, context: int = 256) -> Path:
    """A Qwen2-VL with two layers, grouped queries, biased k_proj and a vision tower of two blocks: 48 px, 16 tokens."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    words = tokenizer(QWEN)
    token = words.convert_tokens_to_ids
    config = transformers.Qwen2VLConfig(
        text_config=small_decoder(words, context, rope_parameters=_rope(1, 1, 2)),
        vision_config=dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=6),
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        eos_token_id=token(END),
        pad_token_id=token(PAD),
    )
    sizes = dict(patch_size=6, temporal_patch_size=2, merge_size=2, size=dict(shortest_edge=144, longest_edge=9216))
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=_chat(VISION_START + IMAGE + VISION_END),
    )
    return saved(transformers.Qwen2VLForConditionalGeneration, config, processor, out, seed)


def qwen3_vl(out: Path, seed: int = 0) -> Path:
    """A Qwen3-VL, whose decoder also reads what the first block of the vision tower makes (deepstack)."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    words = tokenizer(QWEN)
    token = words.convert_tokens_to_ids
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, out_hidden_size=32, num_heads=2, patch_size=6)
    config = transformers.Qwen3VLConfig(
        text_config=small_decoder(words, head_dim=8, rope_parameters=_rope(2, 1, 1)),
        vision_config=vision | dict(num_position_embeddings=64, deepstack_visual_indexes=[0]),
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
    )
    sizes = dict(patch_size=6, temporal_patch_size=2, merge_size=2, size=dict(shortest_edge=144, longest_edge=9216))
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=_chat(VISION_START + IMAGE + VISION_END),
    )
    return saved(transformers.Qwen3VLForConditionalGeneration, config, processor, out, seed)


def qwen3_vl_moe(out: Path, seed: int = 0) -> Path:
    """A Qwen3-VL whose decoder has four experts in each layer, two of them for each token."""
    qwen3_vl(out, seed)
    processor = transformers.AutoProcessor.from_pretrained(out)
    dense = transformers.Qwen3VLConfig.from_pretrained(out).to_dict()
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
    text = dense["text_config"] | experts | {"model_type": "qwen3_vl_moe_text", "mlp_only_layers": []}
    vision = dense["vision_config"] | {"model_type": "qwen3_vl_moe_vision"}
    kept = {key: dense[key] for key in dense if key.endswith("token_id")}
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **kept)
    return saved(transformers.Qwen3VLMoeForConditionalGeneration, config, processor, out, seed)


def siglip(out: Path, seed: int = 0) -> Path:
    """A SigLIP with the tokenizer of the embedded CLIP; its vision tower ends in `nn.MultiheadAttention`."""
    from edgelib.models.load import EMBEDDED

    words = transformers.AutoTokenizer.from_pretrained(EMBEDDED / "scenes-clip")
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.SiglipConfig(
        text_config=tower | dict(vocab_size=len(words), max_position_embeddings=24, pad_token_id=0),
        vision_config=tower | dict(image_size=48, patch_size=12),
    )
    torch.manual_seed(seed)
    transformers.SiglipModel(config).save_pretrained(out)
    transformers.SiglipImageProcessor(size=dict(height=48, width=48)).save_pretrained(out)
    words.save_pretrained(out)
    return out


def idefics3(out: Path, seed: int = 0, tiles: bool = False) -> Path:
    """An Idefics3, of which SmolVLM is a sibling: SigLIP tower, pixel shuffle, Llama decoder. tiles: cut images up."""
    special = [PAD, START, END, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    words = tokenizer([*special, *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2) if tiles)])
    token = words.convert_tokens_to_ids
    config = transformers.Idefics3Config(
        text_config=small_decoder(words, model_type="llama"),
        vision_config=VISION | dict(image_size=32, patch_size=8),
        image_token_id=token("<image>"),
        scale_factor=2,
        pad_token_id=token(PAD),
    )
    sizes = dict(size={"longest_edge": 64 if tiles else 32}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(**sizes, do_image_splitting=tiles),
        words,
        image_seq_len=4,
        chat_template=_chat("<image>"),
    )
    return saved(transformers.Idefics3ForConditionalGeneration, config, processor, out, seed)


def internvl(out: Path, seed: int = 0) -> Path:
    """An InternVL that cuts an image into up to four tiles and a thumbnail, as it does by default."""
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    named = dict(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    words = tokenizer([PAD, START, END, *named.values()], extra_special_tokens=named)
    config = transformers.InternVLConfig(
        text_config=small_decoder(words, 512, model_type="qwen2"),
        vision_config=VISION | dict(image_size=[32, 32], patch_size=[8, 8]),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        image_seq_length=4,
    )
    size = dict(size={"height": 32, "width": 32})
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(**size, crop_to_patches=True, max_patches=4),
        words,
        InternVLVideoProcessor(**size),
        image_seq_length=4,
        chat_template=_chat("<IMG_CONTEXT>"),
    )
    return saved(transformers.InternVLForConditionalGeneration, config, processor, out, seed)


def llava_onevision(out: Path, seed: int = 0) -> Path:
    """A LLaVA-OneVision: SigLIP tower, an image cut into tiles, Qwen2 decoder."""
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

    words = tokenizer([PAD, START, END, "<image>", "<video>"])
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    grid = dict(image_grid_pinpoints=[[32, 32], [32, 64]])
    config = transformers.LlavaOnevisionConfig(
        text_config=small_decoder(words, 512, model_type="qwen2"),
        vision_config=SIGLIP,
        image_token_index=image,
        video_token_index=video,
        image_token_id=image,
        video_token_id=video,
        vision_aspect_ratio="anyres_max_9",
        **grid,
    )
    size = dict(size={"height": 32, "width": 32})
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(**size, **grid),
        words,
        LlavaOnevisionVideoProcessor(**size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_chat("<image>"),
        vision_aspect_ratio="anyres_max_9",
    )
    return saved(transformers.LlavaOnevisionForConditionalGeneration, config, processor, out, seed)


def blip(out: Path, seed: int = 0, answering: bool = True, kind: type | None = None) -> Path:
    """A BLIP that answers questions (encoder and decoder), one that continues a text, or one of another class."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    pieces = [*special, *(w.removeprefix("Ġ") for w in WORDS), *"?.,abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    words = transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=256)
    text = dict(hidden_size=32, encoder_hidden_size=32, intermediate_size=64, projection_dim=16, num_hidden_layers=2)
    ends = dict(bos_token_id=5, eos_token_id=3, sep_token_id=3, pad_token_id=0)
    config = transformers.BlipConfig(
        text_config=text | ends | dict(vocab_size=len(words), num_attention_heads=4, max_position_embeddings=256),
        vision_config=VISION | dict(hidden_size=32, image_size=32, patch_size=8),
        projection_dim=16,
    )
    processor = transformers.BlipProcessor(transformers.BlipImageProcessor(size={"height": 32, "width": 32}), words)
    writes = transformers.BlipForQuestionAnswering if answering else transformers.BlipForConditionalGeneration
    return saved(kind or writes, config, processor, out, seed)


def paligemma(out: Path, seed: int = 0, window: int | None = None) -> Path:
    """A PaliGemma: SigLIP tower, Gemma decoder, no chat template. window: of PaliGemma 2, whose decoder is Gemma 2."""
    pixels = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    pixels.image_seq_length = 16
    words = tokenizer([PAD, START, END, "<image>"], bos_token=START, extra_special_tokens={"image_token": "<image>"})
    processor = transformers.PaliGemmaProcessor(pixels, words)  # adds tokens of places and outlines
    kind = dict(model_type="gemma") if window is None else dict(model_type="gemma2", sliding_window=window)
    config = transformers.PaliGemmaConfig(
        text_config=small_decoder(words, num_key_value_heads=1, head_dim=8, **kind),
        vision_config=SIGLIP,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vocab_size=len(words),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    return saved(transformers.PaliGemmaForConditionalGeneration, config, processor, out, seed)


def florence2(out: Path, seed: int = 0) -> Path:
    """A Florence-2: DaViT tower of two stages on 32 px, BART encoder and decoder."""
    pixels = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    pixels.image_seq_length = 17  # a token for each of 4 x 4 places and their mean
    words = tokenizer([PAD, START, END, "<image>"], bos_token=START, extra_special_tokens={"image_token": "<image>"})
    stages = dict(depths=(1, 1), embed_dim=(16, 32), num_heads=(2, 2), num_groups=(2, 2), window_size=4)
    patches = dict(patch_size=(7, 3), patch_stride=(4, 2), patch_padding=(3, 1), patch_prenorm=(False, True))
    ends = dict(pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    bart = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4)
    text = bart | dict(vocab_size=len(words), encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128)
    config = transformers.Florence2Config(
        text_config=text | ends | dict(model_type="bart", decoder_start_token_id=words.eos_token_id),
        vision_config=stages | patches | dict(projection_dim=32, max_position_embeddings=16),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        **ends,
    )
    processor = transformers.Florence2Processor(pixels, words)
    return saved(transformers.Florence2ForConditionalGeneration, config, processor, out, seed)


def saved(family, config, processor, out: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = family(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4  # answers that differ between questions and end at different lengths
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def qwen2_5_vl(out: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL, whose vision tower looks through windows in all blocks but one."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    words = tokenizer(QWEN)
    token = words.convert_tokens_to_ids
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, out_hidden_size=32, num_heads=2, patch_size=6)
    config = transformers.Qwen2_5_VLConfig(
        text_config=small_decoder(words, rope_parameters=_rope(1, 1, 2)),
        vision_config=vision | dict(window_size=24, fullatt_block_indexes=[1]),
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
    )
    sizes = dict(patch_size=6, temporal_patch_size=2, merge_size=2, size=dict(shortest_edge=144, longest_edge=9216))
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=_chat(VISION_START + IMAGE + VISION_END),
    )
    return saved(transformers.Qwen2_5_VLForConditionalGeneration, config, processor, out, seed)


def llava(out: Path, seed: int = 0) -> Path:
    """A LLaVA 1.5: CLIP tower, whose last block is left out, and Llama decoder."""
    words = tokenizer([PAD, START, END, "<image>"])
    image = words.convert_tokens_to_ids("<image>")
    tower = VISION | dict(model_type="clip_vision_model", image_size=32, patch_size=8, projection_dim=16)
    config = transformers.LlavaConfig(
        text_config=small_decoder(words, model_type="llama"),
        vision_config=tower,
        image_token_index=image,
        image_token_id=image,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat("<image>"),
    )
    return saved(transformers.LlavaForConditionalGeneration, config, processor, out, seed)


def smolvlm(out: Path, seed: int = 0) -> Path:
    """A SmolVLM, which cuts images up; its video processor is the only part that Idefics3 lacks."""
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    named = dict(
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
    )
    tiles = [f"<row_{i}_col_{j}>" for i in (1, 2, 3, 4) for j in (1, 2, 3, 4)]
    words = tokenizer([PAD, START, END, *named.values(), *tiles], extra_special_tokens=named)
    config = transformers.SmolVLMConfig(
        text_config=small_decoder(words, 512, model_type="llama"),
        vision_config=VISION | dict(image_size=32, patch_size=8),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=words.pad_token_id,
    )
    sizes = dict(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**sizes, do_image_splitting=True),
        words,
        SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=_chat("<image>"),
    )
    return saved(transformers.SmolVLMForConditionalGeneration, config, processor, out, seed)


def gemma3(out: Path, seed: int = 0) -> Path:
    """A Gemma 3: SigLIP tower, and a decoder of which five layers in six see a window."""
    named = dict(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    words = tokenizer([PAD, START, END, *named.values()], extra_special_tokens=named)
    image, start, end = words.convert_tokens_to_ids(list(named.values()))
    config = transformers.Gemma3Config(
        text_config=small_decoder(words, num_hidden_layers=6, head_dim=8, sliding_window=16),
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        image_token_index=image,
        image_token_id=image,
        boi_token_index=start,
        eoi_token_index=end,
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        words,
        image_seq_length=4,
        chat_template=_chat("<start_of_image>"),
    )
    return saved(transformers.Gemma3ForConditionalGeneration, config, processor, out, seed)


def clip(out: Path, seed: int = 0) -> Path:
    """A CLIP with the tokenizer of the embedded one."""
    from edgelib.models.load import EMBEDDED

    words = transformers.AutoTokenizer.from_pretrained(EMBEDDED / "scenes-clip")
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    ends = dict(pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    config = transformers.CLIPConfig(
        text_config=tower | ends | dict(vocab_size=len(words), max_position_embeddings=24),
        vision_config=tower | dict(image_size=48, patch_size=12),
        projection_dim=16,
    )
    torch.manual_seed(seed)
    transformers.CLIPModel(config).save_pretrained(out)
    transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=dict(height=48, width=48)).save_pretrained(
        out
    )
    words.save_pretrained(out)
    return out


def siglip2(out: Path, seed: int = 0) -> Path:
    """A SigLIP 2 (NaFlex) that reads images of any shape in at most 16 patches of 12 pixels."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", ".", *"abcdefghijklmnopqrstuvwxyz"]
    words = transformers.Siglip2Tokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], padding_side="right")
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.Siglip2Config(
        text_config=tower | dict(vocab_size=len(words), max_position_embeddings=64, pad_token_id=0),
        vision_config=tower | dict(num_patches=16, patch_size=12),
    )
    torch.manual_seed(seed)
    transformers.Siglip2Model(config).save_pretrained(out)
    transformers.Siglip2ImageProcessor(patch_size=12, max_num_patches=16).save_pretrained(out)
    words.save_pretrained(out)
    return out
