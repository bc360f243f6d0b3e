"""A torch module as an ONNX Runtime session on the CPU that is called like the module."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
        feeds = {name: taken(tensor).numpy() for name, tensor in zip(self.names, tensors, strict=True)}
        return torch.from_numpy(self.session.run(None, feeds)[0])

    def extra_repr(self) -> str:
        return f"onnx {self.digest[:16]}"


def taken(tensor: Tensor) -> Tensor:
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
        write_onnx(module, tuple(map(taken, inputs)), dynamic, outputs, path)
        digest, size = hashlib.sha256(), 0
        for part in sorted(Path(folder).iterdir()):  # a model beyond 2 GB has several
            with part.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
            size += part.stat().st_size
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return OnnxModule(session, size, digest.hexdigest())


class LayerExport:
    """Exports layers one by one, each to a session of its own; of layers that differ in numbers alone the first is
    traced, and the others take its graph."""

    def __init__(self):
        self.graphs: dict[tuple, tuple[Any, dict[str, str]]] = {}

    def __call__(self, layer: nn.Module, width: int) -> OnnxModule:
        """Export a layer float32 [rows, width] -> [rows, out] with any number of rows; raises as `export`."""
        import onnxruntime as ort
        from onnx.numpy_helper import from_array

        if isinstance(layer, nn.Linear) and layer.bias is None:  # its product alone would store the weight transposed
            plain, layer = layer, nn.Linear(layer.in_features, layer.out_features, device="meta")
            layer.weight = plain.weight
            layer.bias = nn.Parameter(torch.zeros(layer.out_features), requires_grad=False)
        state = {name: tensor.detach().contiguous().numpy() for name, tensor in layer.state_dict().items()}
        settings = {k: v for k, v in vars(layer).items() if isinstance(v, bool | int)}
        form = (type(layer), width, str(settings), *((n, v.shape, str(v.dtype)) for n, v in state.items()))
        if form not in self.graphs:
            self.graphs[form] = _graph(layer, width)
        graph, sources = self.graphs[form]
        for tensor in graph.graph.initializer:
            if tensor.name in sources:
                tensor.CopyFrom(from_array(state[sources[tensor.name]], tensor.name))
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Threads of a session that has done its part would spin on the cores that the next layer wants.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = graph.SerializeToString()
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return OnnxModule(session, len(file), hashlib.sha256(file).hexdigest())


def _graph(layer: nn.Module, width: int) -> tuple[Any, dict[str, str]]:
    """The graph of a layer, and which of the layer's tensors each of its initializers is; scalars may be constants."""
    import onnx
    from onnx.numpy_helper import to_array

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        write_onnx(layer, (torch.zeros(2, width),), [[0]], ["output"], path)
        graph = onnx.load(path)
    state, sources = layer.state_dict(), {}
    for tensor in graph.graph.initializer:
        source = tensor.name if tensor.name in state else tensor.name.rpartition(".")[0]  # "bias" may come as "bias.1"
        if source in state and np.array_equal(to_array(tensor), state[source].detach().numpy()):
            sources[tensor.name] = source
        elif to_array(tensor).size > 1:
            raise EdgelibError(f"{type(layer).__name__} becomes {tensor.name} in ONNX, which is no tensor of its own")
    return graph, sources


def write_onnx(
    module: nn.Module, inputs: tuple, dynamic: Sequence[Sequence[int]], outputs: Sequence[str], path: Path
) -> None:
    """Write the ONNX file of a module; arguments as those of `export`. Raises EdgelibError where that fails."""
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
