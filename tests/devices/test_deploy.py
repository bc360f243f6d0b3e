"""Memory of a deployment by part, and runtimes that have a kernel: what "it fits" and "it runs" mean."""

from __future__ import annotations

import pytest

from edgelib.devices.deploy.memory import (
    PARTS,
    WEIGHTS,
    decoder_activations,
    encoder_activations,
    image_tokens,
    memory_parts,
    system_bytes,
)
from edgelib.devices.deploy.runtimes import doubts, kernel_of, runtime_for, runtimes
from edgelib.devices.device import GIB, UNITS
from edgelib.devices.shapes import Decoder, Encoder
from edgelib.devices.table import devices
from edgelib.errors import EdgelibError

SEES = Encoder(hidden=8, layers=2, heads=2, mlp=32, patch=4, image=16)
WRITES = Decoder(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=16, vocab=10, tied=True)
KNOWN = devices()


def test_parts_are_all_there_and_in_order():
    assert tuple(memory_parts({"head": 3}, encoder=SEES, runtime_mib=1)) == PARTS[:-1] and PARTS[:5] == WEIGHTS


def test_a_cache_and_image_tokens_are_counted_by_hand():
    parts = memory_parts({}, encoder=SEES, decoder=WRITES, context=10, bits=16, kv_bits=8)
    assert parts["cache"] == 2 * 2 * 1 * 4 * 10  # keys and values, layers, heads, channels, tokens, one byte
    shown = (16 // 4 // 2) ** 2
    assert image_tokens(SEES, WRITES) == shown == 4
    assert parts["image tokens"] == 2 * 2 * 1 * 4 * shown + shown * 8 * 2


def test_more_of_anything_takes_no_less():
    def total(**options):
        return sum(memory_parts({}, encoder=SEES, decoder=WRITES, **options).values())

    assert total(context=10) < total(context=20) < total(context=20, batch=2)
    assert total(context=20, kv_bits=8) < total(context=20)
    assert total(context=20, runtime_mib=1) == total(context=20) + 2**20


def test_activations_of_an_encoder_are_those_of_its_widest_point():
    t = 17
    attention, wide = 4 * t * 8 + 2 * t * t, 2 * t * 32
    assert encoder_activations(SEES, 32) == 4 * (t * 8 + max(attention, wide) + 3 * 16 * 16)
    assert decoder_activations(WRITES, 5, 16) == 2 * (5 * 8 + 3 * 5 * 16) + 4 * 10


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ({"tower": 1}, {}, "part of a model"),
        ({"head": -1}, {}, "at least 0 bytes"),
        ({"head": float("nan")}, {}, "at least 0 bytes"),
        ({}, {"context": 5}, "context must be 0"),
    ],
    ids=["unknown part", "negative", "NaN", "context that nobody reads"],
)
def test_mistakes_about_memory_are_named(weights, options, said):
    with pytest.raises(EdgelibError, match=said):
        memory_parts(weights, encoder=SEES, **options)


def test_the_system_keeps_what_is_not_usable():
    device = KNOWN["jetson-nano"]
    assert system_bytes(device) == (device.memory_gib - device.usable_gib) * GIB


def test_every_runtime_names_kernels_of_known_formats_families_and_sources():
    families = {device.family for device in KNOWN.values()} | {"x86"}
    for key, facts in runtimes().items():
        assert set(facts.kernels) <= families, key
        for kernels in facts.kernels.values():
            for weight, activation in (kernel.split("/") for kernel in kernels):
                assert (weight in UNITS or weight == "gguf") and activation in UNITS, (key, weight, activation)


def test_what_no_source_was_seen_for_is_said_of_each_runtime():
    said = doubts()
    assert set(said) == {facts.name for facts in runtimes().values() if facts.unverified}
    assert said["llama.cpp"] == "no source was seen for the memory that it holds"
    assert said["TensorRT Edge-LLM"].endswith("the memory that it holds and its command") and "TensorRT" not in said


RUNS = {
    "FP16 on a Jetson Nano": ("jetson-nano", "fp16", "fp16", "encode", "tensorrt"),
    "W8A8 on an Orin": ("orin-nano-8gb", "int8", "int8", "encode", "tensorrt"),
    "W8A16 on an Orin": ("orin-nano-8gb", "int8", "fp16", "encode", "onnxruntime-cuda"),
    "NVFP4 on Thor": ("agx-thor", "nvfp4", "nvfp4", "encode", "tensorrt"),
    "a block type of GGUF on a Jetson Nano": ("jetson-nano", "q4_k", "fp16", "generate", "llama.cpp"),
    "W4A16 that writes on an Orin": ("orin-nano-8gb", "int4", "fp16", "generate", "tensorrt-edge-llm"),
    "W8A8 that writes on an Orin": ("orin-nano-8gb", "int8", "int8", "generate", "tensorrt-edge-llm"),
    "W4A16 on a Raspberry Pi": ("raspberry-pi-5", "int4", "fp16", "encode", "onnxruntime-cpu"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_kernel_is_found_in_the_preferred_runtime(case):
    device, weight, activation, step, key = RUNS[case]
    found = runtime_for(KNOWN[device], weight, activation, step)
    assert found.key == key and found.memory_mib > 0 and found.sources and "{" not in found.command


REFUSED = {
    "W4A16 on a Jetson Nano: an arithmetic unit is no kernel": ("jetson-nano", "int4", "fp16", "encode"),
    "W8A8 on a Jetson Nano": ("jetson-nano", "int8", "int8", "encode"),
    "W3A8 anywhere": ("h100-sxm", "int3", "int8", "encode"),
    "FP8 on an Orin": ("orin-nano-8gb", "fp8_e4m3", "fp8_e4m3", "encode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_without_a_kernel_the_reason_names_it(case):
    device, weight, activation, step = REFUSED[case]
    with pytest.raises(EdgelibError, match=f"no runtime is known to have a kernel for {weight}/{activation}"):
        runtime_for(KNOWN[device], weight, activation, step)


def test_wide_activations_beside_narrow_weights_are_those_of_the_runtime():
    assert kernel_of("int4", "fp32") == kernel_of("int4", "fp16") == "int4/fp16"
    assert kernel_of("fp32", "fp32") == "fp32/fp32" and kernel_of("iq4_nl", "bf16") == "gguf/fp16"
