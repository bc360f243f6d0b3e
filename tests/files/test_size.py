"""What a configuration costs: bytes of a file in the widths that it computes in."""

from __future__ import annotations

import pytest
import torch

import edgelib
from edgelib.files.size import packed_size, stored_bytes


@pytest.mark.parametrize(
    ("config", "rest"),
    [("fp32", torch.float32), ("w8a32-minmax", torch.float32), ("fp8", torch.float16), ("w4a16", torch.float16)],
)
def test_what_is_not_quantized_is_as_wide_as_what_it_computes_with(config, rest):
    model = edgelib.load("scenes-clip")
    assert stored_bytes(model.module, config) == packed_size(model, config, other_dtype=rest)["total"]


def test_a_quantized_file_is_smaller_than_the_half_precision_one():
    module = edgelib.load("scenes-clip").module
    assert stored_bytes(module, "w8a8-minmax") < stored_bytes(module, "fp16") < stored_bytes(module, "fp32")
