"""Number formats as other tools spell and store them: which scheme of theirs is which of ours, and what they made.

The vectors are those of tests/reference/ptq; its README names every peer, its version and where the peers part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgelib.formats.floating import Minifloat
from edgelib.formats.table import by_name, decode, encode

FULL, ASYMMETRIC = {"full_range": True}, {"symmetric": False}
# the smallest scale that a peer uses: below it, it rounds to its own floor, we to the data
TORCHAO_FLOOR, MODELOPT_FLOOR, AWQ_FLOOR = torch.finfo(torch.float32).eps, 2.0**-24, 1e-5
# torchao's smallest block scale of nvfp4; compressed-tensors turns those that vanish into 0.125
INNER_FLOOR = 2.0**-6


@dataclass(frozen=True)
class Scheme:
    """Our spelling of a peer's scheme.

    ties: the peer breaks some ties otherwise, because it multiplies by 1 / scale or rounds x / scale + zero where we
    divide and round first. floor: scales below it are left out, and so are nvfp4's block scales up to inner_floor.
    spans_zero: groups of one sign are left out, for peers whose range need not include 0.
    """

    format: str
    granularity: str | int
    options: dict = field(default_factory=dict)
    ties: bool = False
    floor: float = 1e-30
    inner_floor: float = 0.0
    spans_zero: bool = False

    @property
    def element(self) -> Minifloat:
        """The small float of each code, of formats that have one."""
        return by_name(self.format).element  # type: ignore[attr-defined]

    def encode(self, x: Tensor):
        """Round x [rows, columns] as the peer's scheme does."""
        return encode(x, by_name(self.format).variant(**self.options), self.granularity)


SCHEMES = {
    ("compressed_tensors", "int8_channel_sym"): Scheme("int8", "channel", FULL),
    ("compressed_tensors", "int8_channel_asym"): Scheme("int8", "channel", ASYMMETRIC, ties=True),
    ("compressed_tensors", "int8_tensor_sym"): Scheme("int8", "tensor", FULL),
    ("onnxruntime", "int8_axis0_amax127"): Scheme("int8", "channel"),
    ("onnxruntime", "int8_tensor_amax127"): Scheme("int8", "tensor"),
    ("onnxruntime", "uint8_tensor_asym"): Scheme("int8", "tensor", ASYMMETRIC),
    ("onnxruntime", "toolkit_QInt8_sym1_reduce0"): Scheme("int8", "tensor"),
    ("onnxruntime", "toolkit_QInt8_sym0_reduce0"): Scheme("int8", "tensor", ASYMMETRIC),
    ("torchao", "int8_perrow_sym_qmin-127"): Scheme("int8", "channel", floor=TORCHAO_FLOOR),
    ("torchao", "int8_perrow_asym"): Scheme("int8", "channel", ASYMMETRIC, floor=TORCHAO_FLOOR),
    ("torchao", "int8_perrow_Int8Tensor"): Scheme("int8", "channel", FULL, ties=True, floor=TORCHAO_FLOOR),
    ("torchao", "int8_pertensor_Int8Tensor"): Scheme("int8", "tensor", FULL),
    ("torchao", "uint8_pertensor_asym"): Scheme("int8", "tensor", ASYMMETRIC),
    ("modelopt", "int8_perrow_narrow1"): Scheme("int8", "channel", floor=MODELOPT_FLOOR / 127),
    ("modelopt", "int8qtensor_axis0"): Scheme("int8", "channel"),
    ("smoothquant", "w8_perchannel"): Scheme("int8", "channel", floor=1e-5 / 127),
    ("smoothquant", "w8_pertensor"): Scheme("int8", "tensor"),
    ("smoothquant", "w4_perchannel"): Scheme("int4", "channel", floor=1e-5 / 7),
    # GPTQ gives a symmetric grid to a row without negatives that spans only its positive half
    ("gptq_rtn", "int4_perchannel_sym1_mse0"): Scheme("int4", "channel", FULL, spans_zero=True),
    ("gptq_rtn", "int4_perchannel_sym0_mse0"): Scheme("int4", "channel", ASYMMETRIC),
    ("llm_awq", "int4_asym_g-1"): Scheme("int4", "channel", ASYMMETRIC, floor=AWQ_FLOOR / 15, spans_zero=True),
    ("onnxruntime", "int4_g32_amax7"): Scheme("int4", 32),
    ("onnxruntime", "int4_g64_amax7"): Scheme("int4", 64),
    # what it takes as a tie, after adding the zero point, is not what rounds to even here
    ("onnxruntime", "MatMulNBits_g32_sym0"): Scheme("int4", 32, ASYMMETRIC, ties=True),
    ("onnxruntime", "MatMulNBits_g64_sym0"): Scheme("int4", 64, ASYMMETRIC, ties=True),
    **{
        scheme: case
        for size in (32, 64, 128)
        for scheme, case in {
            ("torchao", f"int4_g{size}_sym"): Scheme("int4", size, FULL, ties=True, floor=TORCHAO_FLOOR),
            ("torchao", f"int4_g{size}_asym"): Scheme("int4", size, ASYMMETRIC, floor=TORCHAO_FLOOR),
            ("compressed_tensors", f"int4_g{size}_sym"): Scheme("int4", size, FULL),
            ("compressed_tensors", f"int4_g{size}_asym"): Scheme("int4", size, ASYMMETRIC, ties=True),
            ("modelopt", f"int4_g{size}_narrow1"): Scheme("int4", size, ties=True, floor=MODELOPT_FLOOR / 7),
            ("llm_awq", f"int4_asym_g{size}"): Scheme("int4", size, ASYMMETRIC, floor=AWQ_FLOOR / 15, spans_zero=True),
        }.items()
    },
    ("torchao", "fp8e4m3_pertensor_Float8Tensor"): Scheme("fp8_e4m3", "tensor"),
    ("torchao", "fp8e4m3_perrow_Float8Tensor"): Scheme("fp8_e4m3", "channel"),  # NaN where a row is all zero
    ("compressed_tensors", "fp8_tensor"): Scheme("fp8_e4m3", "tensor"),
    ("compressed_tensors", "fp8_channel"): Scheme("fp8_e4m3", "channel"),
    ("onnxruntime", "fp8e4m3_tensor_sat1"): Scheme("fp8_e4m3", "tensor"),
    ("onnxruntime", "fp8e4m3_axis0"): Scheme("fp8_e4m3", "channel"),
    # modelopt multiplies by 448 / amax
    ("modelopt", "fp8_pertensor"): Scheme("fp8_e4m3", "tensor", ties=True),
    ("modelopt", "fp8_perrow"): Scheme("fp8_e4m3", "channel", ties=True, floor=MODELOPT_FLOOR / 448),
    **{
        ("torchao", f"mx{bits}_{rule}"): Scheme(f"mx{bits.removesuffix('e4m3')}", "tensor", {"scale_rule": rule})
        for bits in ("fp4", "fp8e4m3")
        for rule in ("floor", "rceil", "even")
    },
    ("modelopt", "mxfp8"): Scheme("mxfp8", "tensor", {"scale_rule": "rceil"}),
    ("modelopt", "mxfp4"): Scheme("mxfp4", "tensor", {"scale_rule": "rceil"}, ties=True),  # ties go down
    ("compressed_tensors", "mxfp4"): Scheme("mxfp4", "tensor", {"scale_rule": "even"}),
    ("modelopt", "nvfp4"): Scheme("nvfp4", "tensor"),
    # torchao multiplies by the reciprocal
    ("torchao", "nvfp4_f32_two_level"): Scheme("nvfp4", "tensor", ties=True, inner_floor=INNER_FLOOR),
    ("torchao", "nvfp4_bf16_two_level"): Scheme("nvfp4", "tensor", ties=True, inner_floor=INNER_FLOOR),
    ("compressed_tensors", "nvfp4"): Scheme("nvfp4", "tensor", inner_floor=INNER_FLOOR),
}


def read_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of integers.npz, groups.npz and floats.npz by key; raises OSError for a missing file."""
    archives = (np.load(folder / f"{name}.npz") for name in ("integers", "groups", "floats"))
    return {key: archive[key] for archive in archives for key in archive.files}


def stored_cases(vectors: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """Return every (peer, scheme, tensor) that is stored and has a spelling of ours."""
    stored = {tuple(key.split("/")[:3]) for key in vectors if not key.startswith("inputs/")}
    return sorted((peer, name, tensor) for peer, tensor, name in stored if (peer, name) in SCHEMES)


def spread(part, shape) -> Tensor:
    """Repeat one number per tensor, row or group over the elements of `shape` that share it."""
    part = torch.as_tensor(part)
    part = part.reshape(shape[0] if part.numel() > 1 else 1, -1)
    return part.repeat_interleave(shape[1] // part.shape[1], 1).expand(shape)


def alike(scheme: Scheme, x: Tensor, encoded) -> Tensor:
    """Return which elements [rows, columns] the peer treats as we do, by its floors and its one-sided groups."""
    groups = x.unflatten(-1, (encoded.scale.shape[-1], -1)) if encoded.scale.numel() > 1 else x.unsqueeze(-2)
    live = spread(encoded.scale, x.shape) >= scheme.floor
    if scheme.spans_zero:
        live = live & ((groups.amin(-1) < 0) & (groups.amax(-1) > 0)).repeat_interleave(groups.shape[-1], -1)
    if scheme.inner_floor:
        live = live & spread(encoded.scale_codes().float() > scheme.inner_floor, x.shape)
    return live


def peer_values(vectors: Mapping[str, np.ndarray], stem: str, scheme: Scheme, shape) -> Tensor:
    """Return the values [rows, columns] that a peer stored under `stem`, "peer/tensor/scheme"; fp32."""
    part = {key.rpartition("/")[2]: value for key, value in vectors.items() if key.startswith(f"{stem}/")}
    if "fake_quant" in part:
        return torch.from_numpy(part["fake_quant"])
    scale = part["scale"]
    if scheme.format.startswith("int"):
        zero = spread(part["zero_point"].astype(np.float32), shape) if "zero_point" in part else 0
        return (torch.from_numpy(part["q"].astype(np.float32)) - zero) * spread(scale, shape)
    if scheme.format == "nvfp4":
        inner = torch.from_numpy(scale)
        inner = inner.view(torch.float8_e4m3fn).float() if scale.dtype == np.uint8 else inner
        scale = inner * float(1 / part["global_scale"].item() if "global_scale" in part else part["outer"])
    elif scale.dtype == np.uint8:
        scale = torch.from_numpy(scale).view(torch.float8_e8m0fnu).float()
    if "element" in part:
        elements = torch.from_numpy(part["element"]).float()
    else:
        codes = torch.from_numpy(part["q"]).view(by_name(scheme.format).storage)
        elements = scheme.element.decode(codes, torch.float32)
    return elements * spread(scale, shape)


def steps_apart(vectors: Mapping[str, np.ndarray], peer: str, name: str, tensor: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (difference in steps, whether it is a tie, whether the peer treats the element as we do), [rows, columns].

    A step is the distance between two codes, at these values for floats. A tie: both are equally far from the number.
    """
    scheme, x = SCHEMES[peer, name], torch.from_numpy(vectors[f"inputs/{tensor}"])
    x = x.bfloat16().float() if "bf16" in name else x
    encoded = scheme.encode(x)
    ours, theirs = decode(encoded), peer_values(vectors, f"{peer}/{tensor}/{name}", scheme, x.shape)
    step = spread(encoded.scale, x.shape).clone()
    if not scheme.format.startswith("int"):
        binade = torch.maximum(ours, theirs).div(step).abs().log2().floor().clamp(min=scheme.element.emin)
        step *= torch.exp2(binade) * 2.0**-scheme.element.mantissa
    tie = ((x - ours).abs() - (x - theirs).abs()).abs() <= 1e-3 * step
    return (ours - theirs).abs() / step, tie, alike(scheme, x, encoded)
