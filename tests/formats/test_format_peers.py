"""Number formats against other tools: the same codes, scales and values on the same tensors, and where tools differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from helpers import REFERENCE

from edgelib.formats.floating import E2M1, E4M3, E5M2
from edgelib.formats.table import by_name, decode, encode

FOLDER = REFERENCE / "ptq"
EDGES = np.load(FOLDER / "edges.npz")
VECTORS = {
    key: archive[key]
    for archive in (np.load(FOLDER / f"{name}.npz") for name in ("integers", "groups", "floats"))
    for key in archive.files
}
TENSORS = {key.removeprefix("inputs/"): torch.from_numpy(VECTORS[key]) for key in VECTORS if key.startswith("inputs/")}

SYMMETRIC, FULL, ASYMMETRIC = {}, {"full_range": True}, {"symmetric": False}
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

    def encode(self, x):
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
STORED = {tuple(key.split("/")[:3]) for key in VECTORS if not key.startswith(("inputs/", "smoothquant/smooth_ln_fcs/"))}
CASES = sorted((peer, scheme, tensor) for peer, tensor, scheme in STORED if (peer, scheme) in SCHEMES)


def test_every_stored_scheme_is_compared():
    left = {f"{peer} {scheme}" for peer, _, scheme in STORED if (peer, scheme) not in SCHEMES}
    assert left == {
        "compressed_tensors mxfp8",
        "onnxruntime fp8e4m3_tensor_halfscale_sat1",
        "torchao nvfp4_f32_single_level",
        "torchao nvfp4_bf16_single_level",
    }


def spread(part, shape) -> torch.Tensor:
    """Repeat one number per tensor, row or group over the elements that share it."""
    part = torch.as_tensor(part)
    part = part.reshape(shape[0] if part.numel() > 1 else 1, -1)
    return part.repeat_interleave(shape[1] // part.shape[1], 1).expand(shape)


def compared(scheme: Scheme, x, encoded) -> torch.Tensor:
    """Which elements the peer treats as we do."""
    groups = x.unflatten(-1, (encoded.scale.shape[-1], -1)) if encoded.scale.numel() > 1 else x.unsqueeze(-2)
    live = spread(encoded.scale, x.shape) >= scheme.floor
    if scheme.spans_zero:
        live = live & ((groups.amin(-1) < 0) & (groups.amax(-1) > 0)).repeat_interleave(groups.shape[-1], -1)
    if scheme.inner_floor:
        live = live & spread(encoded.scale_codes().float() > scheme.inner_floor, x.shape)
    return live


def peer_values(stem: str, scheme: Scheme, shape) -> torch.Tensor:
    """Decode what a peer stored."""
    part = {name: VECTORS[key] for key in VECTORS if key.startswith(f"{stem}/") for name in [key.rpartition("/")[2]]}
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
        codes = torch.from_numpy(part["q"])
        elements = by_name(scheme.format).element.decode(codes.view(by_name(scheme.format).storage), torch.float32)
    return elements * spread(scale, shape)


@pytest.mark.parametrize("peer,scheme,tensor", CASES, ids=map("-".join, CASES))
def test_values_are_those_of_the_peer(peer, scheme, tensor):
    case, x = SCHEMES[peer, scheme], TENSORS[tensor]
    x = x.bfloat16().float() if "bf16" in scheme else x
    encoded = case.encode(x)
    ours, theirs = decode(encoded), peer_values(f"{peer}/{tensor}/{scheme}", case, x.shape)
    live = compared(case, x, encoded)
    # a step: the distance between two codes, at these values for floats
    step = spread(encoded.scale, x.shape).clone()
    if not case.format.startswith("int"):
        element = by_name(case.format).element
        step *= torch.exp2(torch.maximum(ours, theirs).div(step).abs().log2().floor().clamp(min=element.emin))
        step *= 2.0**-element.mantissa
    differ = live & ((ours - theirs).abs() > 1e-3 * step)
    assert case.ties or not differ.any()
    # one step apart, with x in the middle
    assert ((ours - theirs).abs() <= 1.001 * step)[differ].all()
    assert (((x - ours).abs() - (x - theirs).abs()).abs() <= 1e-3 * step)[differ].all()
    assert live.float().mean() >= (0.2 if tensor == "decades_16x64" else 0.75)


CODED = [c for c in CASES if f"{c[0]}/{c[2]}/{c[1]}/q" in VECTORS and SCHEMES[c[:2]].format[:3] != "int"]


@pytest.mark.parametrize("peer,scheme,tensor", CODED, ids=map("-".join, CODED))
def test_codes_and_scales_are_those_of_the_peer(peer, scheme, tensor):
    case, x, stem = SCHEMES[peer, scheme], TENSORS[tensor], f"{peer}/{tensor}/{scheme}"
    encoded = case.encode(x.bfloat16() if "bf16" in scheme else x)
    live = compared(case, x, encoded)
    same = encoded.codes.view(torch.uint8) == torch.from_numpy(VECTORS[f"{stem}/q"])
    if (peer, scheme) == ("modelopt", "mxfp4"):
        same |= decode(encoded) == 0  # modelopt drops the sign of zero
    assert case.ties or same[live].all()
    theirs = torch.from_numpy(VECTORS[f"{stem}/scale"])
    if case.format.startswith("fp8"):
        assert torch.equal(encoded.scale[live.any(1) if len(theirs) > 1 else [0]].reshape(-1), theirs[theirs > 0])
    else:
        # the scale of an all-zero nvfp4 block is every tool's own convention
        blocks = (live & ((x != 0) | (case.format != "nvfp4"))).unflatten(-1, (theirs.shape[-1], -1)).any(-1)
        assert torch.equal(encoded.scale_codes().view(torch.uint8)[blocks], theirs[blocks])


SCALED = [
    case
    for case in SCHEMES
    if f"{case[0]}/W_64x128/{case[1]}/scale" in VECTORS and SCHEMES[case].format[:3] in ("int", "fp8")
]


@pytest.mark.parametrize("peer,scheme", SCALED, ids=map("-".join, SCALED))
def test_scales_are_those_of_the_peer(peer, scheme):
    x, case = TENSORS["W_64x128"], SCHEMES[peer, scheme]
    ours = case.encode(x).scale
    theirs = torch.from_numpy(VECTORS[f"{peer}/W_64x128/{scheme}/scale"]).reshape(ours.shape)
    live = ours > 1e-30  # the scale of an all-zero row is every tool's own convention
    assert torch.equal(ours[live], theirs[live]) and live.float().mean() > 0.9


@pytest.mark.parametrize("tensor", TENSORS)
def test_onnxruntime_saturates_at_half_the_scale_as_we_do(tensor):
    stem = f"onnxruntime/{tensor}/fp8e4m3_tensor_halfscale_sat1"
    scale = torch.from_numpy(VECTORS[f"{stem}/scale"])
    theirs = torch.from_numpy(VECTORS[f"{stem}/element"]).float() * scale
    assert torch.equal(by_name("fp8_e4m3").round_static(TENSORS[tensor], scale), theirs)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("tensor", TENSORS)
def test_nvfp4_with_the_outer_scale_one_is_torchao_single_level(tensor, dtype):
    stem = f"torchao/{tensor}/nvfp4_{dtype}_single_level"
    x = TENSORS[tensor] if dtype == "f32" else TENSORS[tensor].bfloat16()
    inner = torch.from_numpy(VECTORS[f"{stem}/scale"]).view(torch.float8_e4m3fn).float()
    theirs = E2M1.decode(torch.from_numpy(VECTORS[f"{stem}/q"]), torch.float32) * spread(inner, x.shape)
    ours = by_name("nvfp4").round_static(x.float(), 1.0)
    live = spread(inner > 2.0**-6, x.shape)
    # bfloat16 values fall on ties, where torchao multiplies by the reciprocal
    assert ((ours != theirs) & live).float().mean() <= (0.0002 if dtype == "bf16" else 0)


def test_compressed_tensors_mxfp8_takes_the_mantissa_of_fp4_for_its_scales():
    """Its mxfp8 is therefore neither rule here; with that mantissa in the rule "even" the scales are the same."""
    for tensor, x in TENSORS.items():
        theirs = torch.from_numpy(VECTORS[f"compressed_tensors/{tensor}/mxfp8/scale"])
        fraction, exponent = torch.frexp(x.unflatten(-1, (-1, 32)).abs().amax(-1))
        expected = torch.exp2((exponent - 1 - E4M3.emax + (2 * fraction >= 1.75)).float())
        assert torch.equal(theirs[fraction > 0], expected[fraction > 0])


PEER_CASTS = {
    "torch-e4m3": (E4M3, "e4m3/torch_clamped_code"),
    "ml_dtypes-e4m3": (E4M3, "e4m3/ml_dtypes_float8_e4m3fn_code"),
    "torch-e5m2": (E5M2, "e5m2/torch_float8_e5m2_code"),
    "ml_dtypes-e5m2": (E5M2, "e5m2/ml_dtypes_float8_e5m2_code"),
    "torchao-e2m1": (E2M1, "e2m1/torchao_f32_to_f4_unpacked_code"),
    "modelopt-e2m1": (E2M1, "e2m1/modelopt_code"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cast", PEER_CASTS)
def test_a_cast_at_every_midpoint_is_that_of_the_peer(cast, dtype):
    element, key = PEER_CASTS[cast]
    x = torch.from_numpy(EDGES[f"{key[:4]}/x"])
    ours = element.encode(x.to(dtype)).view(torch.uint8)
    theirs = torch.from_numpy(EDGES[key])
    # 4 bits have no NaN, and modelopt no negative zero; ml_dtypes, and torch for e5m2, overflow to NaN or inf
    top = element.largest * (1 + 2.0 ** -(element.mantissa + 2))
    known = ~x.isnan() & ((x.abs() < top) | ("ml_dtypes" not in cast and element is not E5M2))
    known &= (x != 0) | ("modelopt" not in cast)
    assert torch.equal(ours[known], theirs[known]) and known.float().mean() > 0.9
    beyond = x.abs() > element.largest
    assert torch.equal(element.decode(element.encode(x), torch.float32)[beyond], x[beyond].sign() * element.largest)


@pytest.mark.parametrize("peer", ["torchao_value", "ml_dtypes_float4_e2m1fn_value", "compressed_tensors_value"])
def test_values_of_a_four_bit_cast_are_those_of_the_peer(peer):
    x, theirs = torch.from_numpy(EDGES["e2m1/x"]), torch.from_numpy(EDGES[f"e2m1/{peer}"])
    assert torch.equal(E2M1.round_(x.clone())[~x.isnan()], theirs[~x.isnan()])


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1_by_code"])
def test_every_code_decodes_to_the_tabulated_value(name):
    element = {"e4m3fn": E4M3, "e5m2": E5M2, "e2m1_by_code": E2M1}[name]
    table = torch.from_numpy(EDGES[f"tables/{name}"])
    ours = element.decode(torch.arange(len(table), dtype=torch.uint8).view(element.storage), torch.float32)
    assert torch.equal(ours[~table.isnan()], table[~table.isnan()]) and torch.equal(ours.isnan(), table.isnan())
    finite = table[table.isfinite() & ~table.signbit()]
    assert finite.tolist() == element.magnitudes
