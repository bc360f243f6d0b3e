"""The models that write and are known, by their names in config.json; one without a file is taken for a chat model."""

from __future__ import annotations

from edgelib.models.families import blip, florence2, paligemma
from edgelib.models.families.base import Family

WRITERS: tuple[Family, ...] = (blip.FAMILY, florence2.FAMILY, paligemma.FAMILY)
CHAT = Family()
HOW_TO_ADD = "add a file to edgelib/models/families that says how, as CONTRIBUTING.md shows"


def family_of(model_type: str) -> Family:
    """The family of models that write and are called so in their config.json."""
    return next((family for family in WRITERS if model_type in family.types), CHAT)


def loader_of(config: dict) -> str | None:
    """The automatic class of transformers that loads the model of a config.json, None if it does not write about an
    image."""
    kind, heads = config.get("model_type"), config.get("architectures")
    head = heads[0] if isinstance(heads, list) and heads else ""
    return family_of(kind).loader(str(head)) if kind in writing_types() else None


def chat_types() -> list[str]:
    """The model types that write text about an image, as the installed transformers knows them."""
    from transformers.models.auto import modeling_auto as auto

    return sorted(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def writing_types() -> list[str]:
    """The model types of all families that write: those with a file and those of transformers."""
    return sorted({*chat_types(), *(kind for family in WRITERS for kind in family.types)})
