"""The tokenizer that a GGUF file holds, as one of transformers: byte-level BPE with its special tokens and template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgelib.errors import EdgelibError, choose
from edgelib.models.gguf.reader import GGUFFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens that text is searched for before it is cut into words
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # @: how many
)
# llama.cpp's name (tokenizer.ggml.pre) -> (digits apart before the words of GPT-2, words of one's own, NFC first,
# whether a word that is a token is taken as it is)
_CUTS: dict[str, tuple[bool, str | None, bool, bool]] = {
    "gpt-2": (False, None, False, False),
    "smollm": (True, None, False, False),
    "qwen2": (False, _WORDS.replace("@", ""), True, False),
    "llama-bpe": (False, _WORDS.replace("@", "{1,3}"), False, True),
}


def gguf_tokenizer(opened: GGUFFile) -> Any:
    """Return the file's tokenizer, a `PreTrainedTokenizerFast` with the file's chat template, if it has one.

    Raises EdgelibError for a file without a tokenizer, for one that is no byte-level BPE (sentencepiece models), and
    for a way of cutting text into words that is not known here.
    """
    from transformers import PreTrainedTokenizerFast

    tokens, backend = _list(opened, "tokens"), _backend(opened)
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: opened.metadata.get(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    named = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}
    built = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=int(opened.value("context_length")),
        clean_up_tokenization_spaces=False,
        **named,
    )
    built.chat_template = opened.metadata.get("tokenizer.chat_template")
    return built


def _list(opened: GGUFFile, key: str) -> list:
    found = opened.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found:
        raise EdgelibError(
            f"{opened.path.name!r} has no tokenizer.ggml.{key}, so no text can be read with it; take a file that holds "
            "its tokenizer, or the model's Hugging Face folder"
        )
    return found


def _backend(opened: GGUFFile) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    kind = opened.metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise EdgelibError(
            f"the tokenizer of {opened.path.name!r} is of the kind {kind!r}, and only byte-level BPE ('gpt2') is read "
            "here; take the model's Hugging Face folder, which has its tokenizer"
        )
    pre = opened.metadata.get("tokenizer.ggml.pre", "gpt-2")
    digits, words, compose, whole = choose(_CUTS, pre, f"way of cutting text into words in {opened.path.name!r}:")
    tokens, merges = _list(opened, "tokens"), [tuple(pair.split(" ", 1)) for pair in _list(opened, "merges")]
    try:
        model = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=whole)
    except Exception as error:  # the Rust package raises a plain Exception
        raise EdgelibError(
            f"the merges of {opened.path.name!r} do not fit its tokens ({error}); fetch it again"
        ) from None
    backend = Tokenizer(model)
    if compose:
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(words), "isolated")] if words else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    kinds = opened.metadata.get("tokenizer.ggml.token_type") or [0] * len(tokens)
    for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
        own = [
            AddedToken(t, special=special, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == wanted
        ]
        (backend.add_special_tokens if special else backend.add_tokens)(own)
    ends = {
        role: (tokens[i], i)
        for role in ("bos", "eos")
        if opened.metadata.get(f"tokenizer.ggml.add_{role}_token")
        and (i := opened.metadata.get(f"tokenizer.ggml.{role}_token_id")) is not None
    }
    if ends:
        first, last = (f"{ends[role][0]}" if role in ends else "" for role in ("bos", "eos"))
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=[*filter(None, [first]), "$A", *filter(None, [last])], special_tokens=list(ends.values())
                ),
            ]
        )
    return backend
