"""A torch module compiled by OpenVINO for the CPU, called like the module; it reads the graphs of our ONNX export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.records import one_line
from edgelib.kernels.onnx_model import taken, write_onnx


class OpenvinoModule(nn.Module):
    """What `compile_openvino` made of a module: called with its tensors in order it returns its only output.

    compiled: of openvino. bytes: the size of the ONNX file that it was made from.
    """

    def __init__(self, compiled, bytes: int):
        super().__init__()
        self.compiled, self.bytes = compiled, bytes
        self.request = compiled.create_infer_request()
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says that it computes in float32 on the CPU

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return all outputs, each in memory of its own."""
        self.request.infer([taken(tensor).numpy() for tensor in tensors])
        return [torch.from_numpy(output.data.copy()) for output in self.request.output_tensors]

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.run(tensors)[0]


def compile_openvino(
    module: nn.Module,
    inputs: Sequence[Tensor],
    dynamic: Sequence[Sequence[int]],
    *,
    threads: int | None = None,
    outputs: Sequence[str] = ("output",),
) -> OpenvinoModule:
    """Export a float32 module on the CPU, in evaluation mode, and compile it; arguments as of `onnx_model.export`.

    Products are in float32 and for one request at a time; weights of 4 and 8 bits stay so in memory.
    Raises EdgelibError where the export or the compilation fails, with the first line of the reason.
    """
    import openvino

    # without snippets, whose fused attention (2026.4) is wrong where as many keys are cached as a head is wide
    settings = {
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "SNIPPETS_MODE": "DISABLE",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(module, tuple(map(taken, inputs)), dynamic, outputs, path)
        size = sum(part.stat().st_size for part in Path(folder).iterdir())
        try:
            compiled = openvino.Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise EdgelibError(f"OpenVINO does not compile {type(module).__name__}: {one_line(error)}") from None
    return OpenvinoModule(compiled, size)
