"""edgelib: which post-training quantization of a vision-language model can I ship on this edge device?

The names below are what notebooks and scripts use; each is imported from its floor when it is first asked for, so
`import edgelib` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "EdgelibError": "errors",
    "load": "inputs.models",
    "dataset": "inputs.datasets",
    "calibration_set": "inputs.calibration",
    "corrupt": "inputs.corruptions",
    "CORRUPTIONS": "inputs.corruptions",
    "with_outliers": "inputs.outliers",
    "fake_quantize": "quant.formats",
    "quantize": "quant.quantize",
    "needs_of": "quant.scheme",
    "quantization_report": "quant.report",
    "architecture": "quant.architectures",
    "packed_size": "quant.packed_size",
    "save_packed": "quant.packing",
    "load_packed": "quant.packing",
    "evaluate": "evaluation.evaluate",
    "robustness_score": "measure.metrics",
    "accuracy_drop": "measure.metrics",
    "mce": "measure.metrics",
    "relative_mce": "measure.metrics",
    "paired_difference": "measure.statistics",
    "vqa_accuracy": "measure.vqa",
    "pope_scores": "measure.pope",
    "mme_scores": "measure.mme",
    "pareto_frontier": "measure.pareto",
    "feasible": "measure.pareto",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from edgelib.errors import EdgelibError as EdgelibError
    from edgelib.evaluation.evaluate import evaluate as evaluate
    from edgelib.inputs.calibration import calibration_set as calibration_set
    from edgelib.inputs.corruptions import CORRUPTIONS as CORRUPTIONS
    from edgelib.inputs.corruptions import corrupt as corrupt
    from edgelib.inputs.datasets import dataset as dataset
    from edgelib.inputs.models import load as load
    from edgelib.inputs.outliers import with_outliers as with_outliers
    from edgelib.measure.metrics import accuracy_drop as accuracy_drop
    from edgelib.measure.metrics import mce as mce
    from edgelib.measure.metrics import relative_mce as relative_mce
    from edgelib.measure.metrics import robustness_score as robustness_score
    from edgelib.measure.mme import mme_scores as mme_scores
    from edgelib.measure.pareto import feasible as feasible
    from edgelib.measure.pareto import pareto_frontier as pareto_frontier
    from edgelib.measure.pope import pope_scores as pope_scores
    from edgelib.measure.statistics import paired_difference as paired_difference
    from edgelib.measure.vqa import vqa_accuracy as vqa_accuracy
    from edgelib.quant.architectures import architecture as architecture
    from edgelib.quant.formats import fake_quantize as fake_quantize
    from edgelib.quant.packed_size import packed_size as packed_size
    from edgelib.quant.packing import load_packed as load_packed
    from edgelib.quant.packing import save_packed as save_packed
    from edgelib.quant.quantize import quantize as quantize
    from edgelib.quant.report import quantization_report as quantization_report
    from edgelib.quant.scheme import needs_of as needs_of


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'edgelib' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(f"edgelib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
