"""A tokenizer of transformers as llama.cpp reads it: tokens, their kinds, merges."""

from __future__ import annotations

import json
import re

from edgelib.errors import EdgelibError
from edgelib.files.gguf.values import Value

NORMAL, CONTROL = 1, 3
_PRE = {"qwen2": "qwen2", "qwen2_vl": "qwen2"}  # how llama.cpp calls the way in which a family splits text into words
_WORD = re.compile(r"\w+|[^\w\s]")  # what its plainest splitter leaves whole, if it is letters or digits alone


def vocabulary(tokenizer, kind: str, rows: int, pre: str | None = None) -> dict[str, Value]:
    """Return the metadata of a tokenizer whose model has `rows` rows of embeddings.

    kind: the model type. pre: llama.cpp's name of the way in which text is cut into words, such as "smollm" or
    "llama-bpe"; None for that of the family. Byte-level BPE is written as it is. A vocabulary of whole words, which
    llama.cpp does not have, becomes a BPE that merges each word letter by letter behind a blank: it reads texts in
    which every word has one (`spelled`).
    Raises EdgelibError for other tokenizers and for a family whose `pre` is not known.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model, special = backend["model"], {token["id"]: token for token in backend["added_tokens"]}
    if model["type"] == "WordLevel":
        tokens, merges = _words(model["vocab"], special)
        pre = "gpt-2"
    elif model["type"] == "BPE" and not model.get("byte_fallback"):
        pre = pre or _PRE.get(kind)
        if pre is None:
            raise EdgelibError(
                f"nobody knows how llama.cpp cuts the text of a {kind} tokenizer into words: pass pre='smollm', "
                "'llama-bpe' or what tokenizer.ggml.pre of a file of this model says"
            )
        tokens = {i: token for token, i in model["vocab"].items()}
        tokens |= {i: token["content"] for i, token in special.items()}
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    else:
        raise EdgelibError(
            f"a {model['type']} tokenizer cannot be written here, which takes byte-level BPE and whole words; "
            "llama.cpp's own convert_hf_to_gguf.py takes more"
        )
    names = [tokens.get(i, f"[PAD{i}]") for i in range(rows)]
    if len(tokens) > rows:
        raise EdgelibError(f"the tokenizer has {len(tokens)} tokens and the model {rows} rows of embeddings for them")
    made = {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", pre),
        "tokenizer.ggml.tokens": Value("strs", names),
        "tokenizer.ggml.token_type": Value("i32s", [CONTROL if i in special else NORMAL for i in range(rows)]),
        "tokenizer.ggml.merges": Value("strs", merges),
    }
    for key, token in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id)):
        if token is not None:
            made[f"tokenizer.ggml.{key}_token_id"] = Value("u32", token)
    if tokenizer.pad_token_id is not None:
        made["tokenizer.ggml.padding_token_id"] = Value("u32", tokenizer.pad_token_id)
    return made | {"tokenizer.ggml.add_bos_token": Value("bool", False)}


def no_vocabulary(rows: int) -> dict[str, Value]:
    """Return metadata for a decoder without a tokenizer, which is asked by numbers of tokens alone."""
    names = [f"[{i}]" for i in range(rows)]
    return {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", "gpt-2"),
        "tokenizer.ggml.tokens": Value("strs", names),
        "tokenizer.ggml.token_type": Value("i32s", [NORMAL] * rows),
        "tokenizer.ggml.merges": Value("strs", ["[ 0"]),
        "tokenizer.ggml.add_bos_token": Value("bool", False),
    }


def _words(vocab: dict[str, int], special: dict[int, dict]) -> tuple[dict[int, str], list[str]]:
    """Tokens by id, and merges that lead from the letters of each word to the word, as down a tree."""
    tokens, merges = {}, {}
    for word, i in vocab.items():
        if i in special:
            tokens[i] = special[i]["content"]
            continue
        if not _WORD.fullmatch(word) or not (word.isalpha() or word.isdigit() or len(word) == 1):
            raise EdgelibError(f"the word {word!r} of the vocabulary is cut in two by llama.cpp; no file can hold it")
        letters = [_BYTES[b] for b in f" {word}".encode()]
        tokens[i] = "".join(letters)
        for end in range(1, len(letters)):
            merges["".join(letters[:end]) + " " + letters[end]] = None
    return tokens, list(merges)


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level BPE: itself where it prints, else one from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printing}
    others = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTES = _byte_letters()


def spelled(tokenizer, ids: list[int]) -> str:
    """Return a text that llama.cpp reads as these tokens: with a blank before each whole word."""
    if json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] != "WordLevel":
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    special = tokenizer.added_tokens_decoder
    return "".join(str(special[i]) if i in special else f" {tokenizer.convert_ids_to_tokens(i)}" for i in ids)
