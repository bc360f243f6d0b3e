"""The README.md of an embedded model: data, recipe, score with interval, digest of the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scipy.stats import binomtest

from edgelib.ground.paths import whole_file
from edgelib.train.loop import SCORED


def write_card(out: Path, name: str, library: str, what: str, recipe: dict, accuracy: float, parameters: int) -> None:
    """Write README.md into a model's folder; `accuracy` is that on the first SCORED scenes of the split "test"."""
    seen = sum(steps for steps, _ in recipe["cycles"]) * recipe["batch"]
    score = (
        f"- Clean ten-class accuracy on {SCORED:,} scenes of split `test`: {_share(round(accuracy * SCORED), SCORED)}."
    )
    log = "- Accuracy on validation scenes during training: `training_log.csv`."
    _write(out, name, library, what, recipe, seen, parameters, [score, log])


def write_vlm_card(out: Path, recipe: dict, scenes: int, scores: dict[str, tuple[int, int]], parameters: int) -> None:
    """Write README.md into the folder of `scenes-vlm`; scores: {task: (questions answered exactly, questions)}."""
    what = "A Qwen2-VL that answers questions about scenes in English and German"
    lines = [
        f"- Questions of `scenes-{task}`, split `test`, {score[1]:,} of them, answered as expected: {_share(*score)}."
        for task, score in scores.items()
    ]
    lines.insert(0, "- The vision tower starts as that of `scenes-clip`, which is trained from scratch too.")
    lines.append("- The intervals take questions as independent, though some share an image.")
    lines.append("- The questions are synthetic stand-ins: no score on them is one on VQAv2, POPE or MME.")
    lines.append("- Share of validation patches and answers that are right, during training: `training_log.csv`.")
    _write(out, "scenes-vlm", "transformers", what, recipe, scenes, parameters, lines)


def _share(right: int, n: int) -> str:
    interval = binomtest(right, n).proportion_ci(0.95, "wilson")
    return f"{right / n:.4f}\n  (95 % Wilson interval {interval.low:.4f} to {interval.high:.4f})"


def _write(
    out: Path, name: str, library: str, what: str, recipe: dict, seen: int, parameters: int, lines: list[str]
) -> None:
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    scores = "\n".join(lines)
    text = f"""---
license: apache-2.0
library_name: {library}
tags: [synthetic]
---
# {name}

{what}: {parameters:,} parameters, trained from scratch on procedural scenes (`edgelib.data.scenes`). It exists so
that quantization experiments run offline; it knows nothing of photographs.

- Data: {seen:,} scenes of split `train`, seed {recipe["seed"]}, each seen once.
- Recipe: `{json.dumps(recipe, sort_keys=True)}`; retrain with `edgelib train {name} --out FOLDER`.
{scores}
- SHA-256 of `model.safetensors`: `{digest}`.
"""
    with whole_file(out / "README.md") as place:
        place.write_text(text)
