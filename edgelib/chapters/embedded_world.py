"""The chapter `embedded_world`: what the package ships, and how much of it outliers disturb."""

from __future__ import annotations

from pydantic import Field

from edgelib.chapters.schema.base import OneClassifier
from edgelib.chapters.schema.fields import MOST_ITEMS, Twins


class EmbeddedWorld(OneClassifier):
    """Parameters of the chapter `embedded_world`."""

    n_images: int = Field(300, ge=2, le=MOST_ITEMS, description="held-out scenes the model is scored on")
    twins: Twins = Field(
        ["weight:10", "activation:100", "key:30", "value:30"],
        description='planted outliers as "kind:strength"; the function is unchanged',
    )
