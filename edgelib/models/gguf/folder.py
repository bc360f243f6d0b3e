"""The decoder of a GGUF file as an ordinary folder of transformers: configuration, safetensors, tokenizer, template."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from edgelib.models.gguf.reader import GGUFFile, load_gguf
from edgelib.models.gguf.tokenizer import gguf_tokenizer


def gguf_decoder(file: str | os.PathLike) -> tuple[nn.Module, Any]:
    """Return the text decoder of a GGUF file (Llama, Qwen2), decoded to float32, and its tokenizer.

    Raises EdgelibError as `load_gguf` and `gguf_tokenizer` do.
    """
    opened = GGUFFile(file)
    tokenizer, module = gguf_tokenizer(opened), load_gguf(opened)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(module.config, key, getattr(tokenizer, key))
        setattr(module.generation_config, key, getattr(tokenizer, key))
    return module, tokenizer


def save_decoder(file: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write the decoder of a GGUF file (Llama, Qwen2), with its tokenizer, as a folder of transformers, and return it.

    Weights are those of the file, decoded to float32 and stored so: what was rounded stays rounded, bit for bit.
    `AutoModelForCausalLM` and `AutoTokenizer` load the folder. Raises EdgelibError as `gguf_decoder` does.
    """
    module, tokenizer = gguf_decoder(file)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    module.save_pretrained(out)
    return out
