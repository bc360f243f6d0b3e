"""A tower, a decoder and a connector as one LLaVA of transformers: network, processor, folder."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgelib.models.checks import require_whole
from edgelib.models.generative_folder import quiet_transformers
from edgelib.train.graft.sources import Decoder, Tower

IMAGE = "<image>"
# Messages whose parts are images and texts become the plain texts that the decoder's own template takes.
_FLATTEN = (
    "{%- set plain = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set whole = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set whole.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- set whole.text = whole.text + ('" + IMAGE + "' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- set plain.messages = plain.messages + [{'role': message['role'], 'content': whole.text}] -%}"
    "{%- endfor -%}"
    "{%- set messages = plain.messages -%}"
)


def build(tower: Tower, decoder: Decoder, layer: int) -> tuple[nn.Module, Any]:
    """Return (LlavaForConditionalGeneration, processor) of the two halves, its connector not trained.

    layer: which hidden state of the tower the connector reads, -1 for the last. The decoder keeps its weights; where
    its tokenizer has no image token, one is added, whose embedding is the mean of all others.
    Raises EdgelibError for a tower whose files lack weights.
    """
    import transformers

    tokenizer = copy.deepcopy(decoder.tokenizer)
    rows = decoder.module.get_input_embeddings().weight.shape[0]
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    text = copy.deepcopy(decoder.module.config)
    text.vocab_size = max(rows, image + 1)
    config = transformers.LlavaConfig(
        text_config=text,
        vision_config=tower.config,
        image_token_index=image,
        image_seq_length=tower.grid**2,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if tower.class_token else "full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with quiet_transformers():
        module = transformers.LlavaForConditionalGeneration(config)
        kind = type(module.model.vision_tower)
        vision, info = kind.from_pretrained(
            tower.folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    info["unexpected_keys"] = []  # the other tower
    require_whole(tower.folder, info)
    module.model.vision_tower = vision
    _take_decoder(module, decoder.module, rows)
    processor = transformers.LlavaProcessor(
        tower.processor,
        tokenizer,
        patch_size=int(tower.config.patch_size),
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(tower.class_token),
        chat_template=_FLATTEN + decoder.tokenizer.chat_template,
    )
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(module.generation_config, key, getattr(decoder.module.generation_config, key))
    return module.eval().requires_grad_(False), processor


@torch.no_grad()
def _take_decoder(module: nn.Module, decoder: nn.Module, rows: int) -> None:
    ours, theirs = module.model.language_model, decoder.get_decoder()
    own = theirs.state_dict()
    ours.load_state_dict({n: t for n, t in own.items() if n != "embed_tokens.weight"}, strict=False)
    tables = [(ours.embed_tokens.weight, theirs.embed_tokens.weight), (module.lm_head.weight, decoder.lm_head.weight)]
    for mine, given in tables:
        mine[:rows] = given
        mine[rows:] = given.mean(0)


def save(module: nn.Module, processor: Any, out: Path) -> None:
    """Write a folder of transformers: safetensors in float32, configuration, tokenizer, template.

    Files appear whole or not at all: they are written beside the folder and moved in one after the other.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as beside, quiet_transformers():
        module.save_pretrained(beside)
        processor.save_pretrained(beside)
        for file in sorted(Path(beside).iterdir()):
            os.replace(file, out / file.name)
