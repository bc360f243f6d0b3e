"""The chapter `validation`: what the book's numbers are held against, and what became of published claims."""

from __future__ import annotations

from pydantic import Field

from edgelib.chapters.schema.base import Parameters
from edgelib.chapters.schema.fields import TablePath


class Validation(Parameters):
    """Parameters of the chapter `validation`."""

    tables: TablePath | None = Field(None, description="folder of the chapters' published tables; null: book/data")
    vectors: TablePath | None = Field(
        None, description="folder of other tools' vectors; null: tests/reference of a checkout"
    )
    n_simulations: int = Field(200, ge=20, le=100_000, description="simulated comparisons of each kind")
    n_families: int = Field(20, ge=20, le=100_000, description="simulated families of comparisons")
    n_gaps: int = Field(30, ge=20, le=100_000, description="simulated robustness gaps of each kind")
    n_images: int = Field(240, ge=20, le=100_000, description="images of a simulated comparison")
    questions: int = Field(4, ge=2, le=100, description="questions about an image, where there are several")
    family: int = Field(8, ge=2, le=100, description="comparisons of a family")
    margin: float = Field(3.0, gt=0, le=50, description="points of the planted differences and of the margin")
    projection_level: float = Field(0.9, ge=0.5, lt=1, description="level of the intervals of projections")

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        """The chapters whose published tables it reads."""
        return (
            "robustness_gap",
            "calibration_sensitivity",
            "vlm_accuracy",
            "fp8_kv_ablation",
            "efficiency",
            "edge_engines",
            "pareto",
        )
