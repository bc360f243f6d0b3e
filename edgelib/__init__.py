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
    "load": "models.load",
    "dataset": "data.datasets",
    "calibration_set": "data.calibration",
    "corrupt": "corruptions",
    "CORRUPTIONS": "corruptions",
    "with_outliers": "models.twins",
    "fake_quantize": "formats.table",
    "gguf_encode": "formats.gguf.codec",
    "gguf_decode": "formats.gguf.codec",
    "quantize": "quant.quantize",
    "mix_report": "quant.mixes.report",
    "needs_of": "quant.scheme",
    "quantization_report": "quant.report",
    "parameter_report": "quant.report",
    "architecture": "models.architectures",
    "packed_size": "files.size",
    "save_packed": "files.pack",
    "load_packed": "files.pack",
    "save_gguf": "files.gguf.write",
    "gguf_size": "files.gguf.write",
    "load_gguf": "models.gguf.reader",
    "load_imatrix": "files.gguf.imatrix",
    "save_imatrix": "files.gguf.imatrix",
    "evaluate": "infer.evaluate",
    "robustness_score": "stats.metrics",
    "accuracy_drop": "stats.metrics",
    "mce": "stats.metrics",
    "relative_mce": "stats.metrics",
    "paired_difference": "stats.paired",
    "vqa_accuracy": "tasks.vqa",
    "pope_scores": "tasks.pope",
    "mme_scores": "tasks.mme",
    "pareto_frontier": "decide.pareto",
    "feasible": "decide.pareto",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from edgelib.corruptions import CORRUPTIONS as CORRUPTIONS
    from edgelib.corruptions import corrupt as corrupt
    from edgelib.data.calibration import calibration_set as calibration_set
    from edgelib.data.datasets import dataset as dataset
    from edgelib.decide.pareto import feasible as feasible
    from edgelib.decide.pareto import pareto_frontier as pareto_frontier
    from edgelib.errors import EdgelibError as EdgelibError
    from edgelib.files.gguf.imatrix import load_imatrix as load_imatrix
    from edgelib.files.gguf.imatrix import save_imatrix as save_imatrix
    from edgelib.files.gguf.write import gguf_size as gguf_size
    from edgelib.files.gguf.write import save_gguf as save_gguf
    from edgelib.files.pack import load_packed as load_packed
    from edgelib.files.pack import save_packed as save_packed
    from edgelib.files.size import packed_size as packed_size
    from edgelib.formats.gguf.codec import gguf_decode as gguf_decode
    from edgelib.formats.gguf.codec import gguf_encode as gguf_encode
    from edgelib.formats.table import fake_quantize as fake_quantize
    from edgelib.infer.evaluate import evaluate as evaluate
    from edgelib.models.architectures import architecture as architecture
    from edgelib.models.gguf.reader import load_gguf as load_gguf
    from edgelib.models.load import load as load
    from edgelib.models.twins import with_outliers as with_outliers
    from edgelib.quant.mixes.report import mix_report as mix_report
    from edgelib.quant.quantize import quantize as quantize
    from edgelib.quant.report import parameter_report as parameter_report
    from edgelib.quant.report import quantization_report as quantization_report
    from edgelib.quant.scheme import needs_of as needs_of
    from edgelib.stats.metrics import accuracy_drop as accuracy_drop
    from edgelib.stats.metrics import mce as mce
    from edgelib.stats.metrics import relative_mce as relative_mce
    from edgelib.stats.metrics import robustness_score as robustness_score
    from edgelib.stats.paired import paired_difference as paired_difference
    from edgelib.tasks.mme import mme_scores as mme_scores
    from edgelib.tasks.pope import pope_scores as pope_scores
    from edgelib.tasks.vqa import vqa_accuracy as vqa_accuracy


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'edgelib' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(f"edgelib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
