"""The README.md of an embedded model: data, recipe, score with interval, digest of the weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from scipy.stats import binomtest

from edgelib.inputs.training import SCORED


def write_card(out: Path, name: str, library: str, what: str, recipe: dict, accuracy: float, parameters: int) -> None:
    """Write README.md into a model's folder; `accuracy` is that on the first SCORED scenes of the split "test"."""
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    interval = binomtest(round(accuracy * SCORED), SCORED).proportion_ci(0.95, "wilson")
    seen = sum(steps for steps, _ in recipe["cycles"]) * recipe["batch"]
    text = f"""---
license: apache-2.0
library_name: {library}
tags: [synthetic]
---
# {name}

{what}: {parameters:,} parameters, trained from scratch on procedural scenes (`edgelib.inputs.scenes`). It exists so
that quantization experiments run offline; it knows nothing of photographs.

- Data: {seen:,} scenes of split `train`, seed {recipe["seed"]}, each seen once.
- Recipe: `{json.dumps(recipe, sort_keys=True)}`; retrain with `edgelib train {name} --out FOLDER`.
- Clean ten-class accuracy on {SCORED:,} scenes of split `test`: {accuracy:.4f}
  (95 % Wilson interval {interval.low:.4f} to {interval.high:.4f}).
- Accuracy on validation scenes during training: `training_log.csv`.
- SHA-256 of `model.safetensors`: `{digest}`.
"""
    temporary = out / "README.md.tmp"
    temporary.write_text(text)
    os.replace(temporary, out / "README.md")
