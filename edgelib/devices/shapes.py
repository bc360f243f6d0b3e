"""Dimensions of models, from their config.json: what bytes and operations depend on, and nothing else.

An architecture is a Hugging Face config.json with its "source"; each file of edgelib/devices/architectures is one.
`encoder` and `decoder` read its dimensions, `edgelib.models.architectures` builds its model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.paths import from_home
from edgelib.ground.records import one_line

FOLDER = Path(__file__).parent / "architectures"
# Qwen2-VL takes images of any size; one of this side, in pixels, stands for them.
_ANY_SIZE = 448


@dataclass(frozen=True)
class Decoder:
    """Dimensions of a decoder with gated MLPs; tied: whether the output head is the embedding matrix."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool

    @property
    def body(self) -> int:
        """Weights of the Linear layers between embedding and output head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def head(self) -> int:
        """Weights of the output head, all of which every token reads."""
        return self.hidden * self.vocab

    @property
    def embedding(self) -> int:
        """Weights of the embedding that are stored beside the head; a token reads one row of them."""
        return 0 if self.tied else self.head

    def kv_bytes(self, tokens: int, bits: float = 16) -> float:
        """Bytes of keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bits / 8


@dataclass(frozen=True)
class Encoder:
    """Dimensions of a vision transformer on square images.

    patch, image: sides in pixels; extra: tokens beside the patches (a class token); projection: width of the Linear
    layer behind it, 0 for none.
    """

    hidden: int
    layers: int
    heads: int
    mlp: int
    patch: int
    image: int
    extra: int = 1
    projection: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of one image."""
        return (self.image // self.patch) ** 2 + self.extra

    @property
    def body(self) -> int:
        """Weights of the Linear layers of the blocks."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.mlp)

    @property
    def stem(self) -> int:
        """Weights of the patch embedding, the positions and the projection."""
        return 3 * self.patch**2 * self.hidden + self.tokens * self.hidden + self.hidden * self.projection


def architectures() -> list[str]:
    """Names of the architectures that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_architecture(name_or_path: str | Path) -> dict:
    """Return the configuration of an architecture: a name in `architectures()`, a config.json, or a folder with one.

    Raises EdgelibError for an unknown name and a file that is no configuration.
    """
    path = from_home(name_or_path)
    path = path / "config.json" if os.path.isdir(path) else path
    named = FOLDER / f"{name_or_path}.json"
    if not os.path.isfile(named) and not os.path.isfile(path):  # unlike Path.is_file, it takes any name
        hint = f"{did_you_mean(name_or_path, architectures())}; choose from {', '.join(architectures())}"
        raise EdgelibError(f"unknown architecture {str(name_or_path)!r}{hint}, or pass the path of a config.json")
    path = named if os.path.isfile(named) else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EdgelibError(f"{path.name} is not valid JSON ({one_line(error)})") from None
    if not isinstance(config, dict):
        raise EdgelibError(f"{path.name} must hold a model's configuration, but it holds a {type(config).__name__}")
    config.pop("source", None)
    return config


def decoder(name_or_path: str | Path) -> Decoder:
    """Return the dimensions of an architecture's language model; raises EdgelibError for one that has none."""
    return _shape(name_or_path, "decoder", decoder_of)


def encoder(name_or_path: str | Path) -> Encoder:
    """Return the dimensions of an architecture's vision encoder; raises EdgelibError for one that has none."""
    return _shape(name_or_path, "encoder", encoder_of)


def has_encoder(name_or_path: str | Path) -> bool:
    """Return whether an architecture has a vision encoder of a known form; raises EdgelibError for an unknown name."""
    read_architecture(name_or_path)
    return _has(str(name_or_path), encoder_of)


def _shape(name_or_path: str | Path, kind: str, shape_of: Callable):
    config = read_architecture(name_or_path)
    try:
        return shape_of(config)
    except EdgelibError as error:
        known = ", ".join(name for name in architectures() if _has(name, shape_of))
        raise EdgelibError(f"{name_or_path} is no {kind} of a known form: {error}; choose from {known}") from None


def _has(name: str, shape_of: Callable) -> bool:
    try:
        shape_of(read_architecture(name))
    except EdgelibError:
        return False
    return True


def decoder_of(config: Mapping) -> Decoder:
    """Return the dimensions of the language model in the configuration of a model; raises EdgelibError if one lacks."""
    text = _part(config, "text_config")
    hidden, heads = _whole(text, "hidden_size"), _whole(text, "num_attention_heads")
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    if not isinstance(tied, bool):
        raise EdgelibError("its configuration does not say tie_word_embeddings, true or false")
    return Decoder(
        hidden=hidden,
        layers=_whole(text, "num_hidden_layers"),
        heads=heads,
        kv_heads=_whole(text, "num_key_value_heads"),
        head_dim=_whole(text, "head_dim") if text.get("head_dim") is not None else hidden // heads,
        mlp=_whole(text, "intermediate_size"),
        vocab=_whole(text, "vocab_size"),
        tied=tied,
    )


def encoder_of(config) -> Encoder:
    """Return the dimensions of the vision transformer in a configuration, of a whole model or of its vision part.

    config: a dict, or a configuration of transformers. Known forms: that of CLIP, BLIP and OWL-ViT, with a class token,
    those of Qwen2-VL and Qwen3-VL, and that of SigLIP, without one. Raises EdgelibError where a dimension lacks.
    """
    config = config if isinstance(config, Mapping) else config.to_dict()
    vision = _part(config, "vision_config")
    if "embed_dim" in vision:
        return Encoder(
            hidden=_whole(vision, "embed_dim"),
            layers=_whole(vision, "depth"),
            heads=_whole(vision, "num_heads"),
            mlp=_whole(vision, "embed_dim") * _whole(vision, "mlp_ratio"),
            patch=_whole(vision, "patch_size"),
            image=_ANY_SIZE,
            extra=0,
        )
    kind = str(vision.get("model_type"))
    if kind.startswith("qwen3_vl"):
        return Encoder(
            hidden=_whole(vision, "hidden_size"),
            layers=_whole(vision, "depth"),
            heads=_whole(vision, "num_heads"),
            mlp=_whole(vision, "intermediate_size"),
            patch=_whole(vision, "patch_size"),
            image=_ANY_SIZE,
            extra=0,
        )
    blocks = dict(
        hidden=_whole(vision, "hidden_size"),
        layers=_whole(vision, "num_hidden_layers"),
        heads=_whole(vision, "num_attention_heads"),
        mlp=_whole(vision, "intermediate_size"),
        patch=_whole(vision, "patch_size"),
        image=_whole(vision, "image_size"),
    )
    if kind.startswith("siglip"):
        return Encoder(**blocks, extra=0)
    return Encoder(
        **blocks,
        projection=0 if _detects(config) else _whole(vision, "projection_dim"),
    )


def _part(config: Mapping, name: str) -> Mapping:
    """A part of a configuration that has one of this name, else all of it."""
    part = config.get(name, config)
    if not isinstance(part, Mapping):
        raise EdgelibError(f"its {name} must be a table of dimensions, got {part!r}")
    return part


def _detects(config: Mapping) -> bool:
    """Whether all patches go on to heads that find objects, instead of one projected vector for the image."""
    return str(config.get("model_type")).startswith("owl")


def _whole(facts: Mapping, name: str) -> int:
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= 1 and value % 1 == 0):
        said = f"has no {name}" if value is None else f"says {name} {value!r}, which is no whole number above 0"
        raise EdgelibError(f"its configuration {said}, so its work cannot be counted")
    return int(value)
