"""The table of methods: every entry works on every format."""

from __future__ import annotations

import re

import pytest
import torch
from layers import random_layer

from edgelib.formats.table import decode
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.loss import output_error, output_power

ROUNDING = [name for name in METHODS if name != "cast"]
NUMBERS = ["w8a8", "w4a16", "w3a8", "fp8", "mxfp8", "mxfp4", "nvfp4", "nvfp4-w4a8"]


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("method", ROUNDING)
def test_every_method_rounds_every_format(method, numbers):
    spec = f"{numbers}-{method}" + ("-channel" if numbers == "w4a16" else "")
    layer = random_layer(spec, width=40)  # a last block of mx and nvfp4 that is not full
    encoded, notes = METHODS[method].round_weight(layer)
    assert encoded.codes.shape == layer.weight.shape and encoded.codes.dtype == layer.scheme.weight_format.storage
    # 2.5 bits of signal at least: a scale or group mixed up gives far less
    assert output_error(layer, decode(encoded)).sum() < 0.1 * output_power(layer).sum()
    assert all(isinstance(value, int | float | str) for value in notes.values())


@pytest.mark.parametrize("method", [name for name in ROUNDING if METHODS[name].migrate])
def test_every_migration_is_positive_and_finite(method):
    layer = random_layer(f"w4a8-{method}")
    scales = METHODS[method].migrate([layer]).scales
    assert scales.shape == (32,) and torch.isfinite(scales).all() and (scales > 0).all()
    assert scales[5] == 1, "a channel that calibration never saw active stays"


@pytest.mark.parametrize("method", ROUNDING)
def test_precision_grows_into_identity(method):
    errors = []
    for numbers in ("w3a32", "w4a32", "w8a32"):
        layer = random_layer(f"{numbers}-{method}" + ("" if numbers == "w8a32" else "-channel"))
        rounded = decode(METHODS[method].round_weight(layer).encoded)
        errors.append(float(output_error(layer, rounded).sum() / output_power(layer).sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_names_of_methods_fit_the_grammar():
    assert all(re.fullmatch(r"[a-z]+", name) and method.label for name, method in METHODS.items())
