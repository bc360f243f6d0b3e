"""A torch module as an ONNX Runtime session on the CPU that is called like the module."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.kernels.onnx_layers import CONTRIB, Int8Linear, NBitsLinear


class OnnxModule(nn.Module):
    """What `export` made of a module: forward takes its tensors in order and returns its only output, float32.

    session: of onnxruntime. bytes: the size of the ONNX file. digest: its SHA-256.
    """

    def __init__(self, session, bytes: int, digest: str):
        super().__init__()
        self.session, self.bytes, self.digest = session, bytes, digest
        self.names = [value.name for value in session.get_inputs()]
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says that it computes in float32 on the CPU

    def forward(self, *tensors: Tensor) -> Tensor:
        feeds = {name: _taken(tensor).numpy() for name, tensor in zip(self.names, tensors, strict=True)}
        return torch.from_numpy(self.session.run(None, feeds)[0])

    def extra_repr(self) -> str:
        return f"onnx {self.digest[:16]}"


def _taken(tensor: Tensor) -> Tensor:
    """Return a tensor as a session takes it: on the CPU, and in float32 if it is floating."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    dynamic: Sequence[Sequence[int]],
    *,
    threads: int | None = None,
    outputs: Sequence[str] = ("output",),
) -> OnnxModule:
    """Export a float32 module on the CPU, in evaluation mode, and open it in ONNX Runtime.

    inputs: example tensors, as forward takes them. dynamic: for each the axes whose size may change later. outputs:
    their names. threads: of one operator; None for torch's own number, so that the two are timed alike.
    Raises EdgelibError where the export fails, with torch's first line.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _write(module, tuple(map(_taken, inputs)), dynamic, outputs, path)
        digest, size = hashlib.sha256(), 0
        for part in sorted(Path(folder).iterdir()):  # a model beyond 2 GB has several
            with part.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
            size += part.stat().st_size
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return OnnxModule(session, size, digest.hexdigest())


def _write(module: nn.Module, inputs: tuple, dynamic: Sequence[Sequence[int]], outputs: Sequence[str], path: Path):
    names = [f"input_{i}" for i in range(len(inputs))]
    axes = {name: {axis: f"{name}_{axis}" for axis in free} for name, free in zip(names, dynamic, strict=True) if free}
    integers = any(isinstance(layer, Int8Linear | NBitsLinear) for layer in module.modules())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every branch of transformers, and of its own age
        try:
            # by tracing: the exporter that replaces it takes some twenty times as long on the same towers
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=False,
                opset_version=20,
                input_names=names,
                output_names=list(outputs),
                dynamic_axes=axes,
                custom_opsets={CONTRIB: 1} if integers else {},
                do_constant_folding=True,
            )
        except Exception as error:  # torch raises many types, all of them long
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EdgelibError(f"{type(module).__name__} cannot be exported to ONNX: {first}") from error
