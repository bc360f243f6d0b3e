"""Schemas of the chapters' parameters: what each one takes, its default and what it may be."""

from __future__ import annotations

from edgelib.chapters.answers import Fp8KvAblation, VlmAccuracy
from edgelib.chapters.base import Parameters
from edgelib.chapters.classification import CalibrationSensitivity, EmbeddedWorld, RobustnessGap
from edgelib.chapters.deployment import Efficiency, Pareto

SCHEMAS: dict[str, type[Parameters]] = {
    "embedded_world": EmbeddedWorld,
    "robustness_gap": RobustnessGap,
    "calibration_sensitivity": CalibrationSensitivity,
    "vlm_accuracy": VlmAccuracy,
    "efficiency": Efficiency,
    "pareto": Pareto,
    "fp8_kv_ablation": Fp8KvAblation,
}

__all__ = [
    "SCHEMAS",
    "CalibrationSensitivity",
    "Efficiency",
    "EmbeddedWorld",
    "Fp8KvAblation",
    "Parameters",
    "Pareto",
    "RobustnessGap",
    "VlmAccuracy",
]
