"""Calibration statistics against brute force, and what the pass leaves behind: nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode

from edgelib.errors import EdgelibError
from edgelib.inputs.observe import Pass, observing
from edgelib.quant.calibrate import calibrate


class Block(nn.Module):
    """Pre-norm attention-like block: one norm feeds q, k, v; another feeds fc1; fc2 and out read other things."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.out(F.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h)))
        return x + self.fc2(F.gelu(self.fc1(F.dropout(self.norm2(x), 0.5, self.training))))


class Model:
    """The part of a ZeroShotModel that calibration uses."""

    def __init__(self, module):
        self.module = module

    def calibration_passes(self, dataset, batch_size):
        for positions, images in dataset.batches(batch_size):
            yield Pass(lambda images=images: self.module(images), positions, "image")


class Images:
    def __init__(self, images):
        self.images = images

    def batches(self, size):
        yield from zip(torch.arange(len(self.images)).split(size), self.images.split(size), strict=True)


def inputs(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block()


def test_statistics_are_the_brute_force_ones(block):
    seen, hooks = {}, []
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear):
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, a, name=name: seen.update({name: a[0].reshape(-1, a[0].shape[-1])})
                )
            )
    block.eval()(inputs())
    [hook.remove() for hook in hooks]
    statistics = calibrate(block, [inputs()])
    assert set(statistics.layers) == set(seen) and statistics.unreached == ()
    for name, x in seen.items():
        layer = statistics.layers[name]
        assert torch.allclose(layer.abs_max, x.abs().amax(0)) and torch.allclose(layer.abs_mean, x.abs().mean(0))
        assert layer.tokens == 60


def test_batches_and_order_do_not_matter(block):
    whole = calibrate(Model(block), Images(inputs()), batch_size=12)
    parts = calibrate(Model(block), Images(inputs().flip(0)), batch_size=5)
    for name, layer in whole.layers.items():
        assert torch.allclose(layer.abs_max, parts.layers[name].abs_max, rtol=1e-5)
        assert torch.allclose(layer.abs_mean, parts.layers[name].abs_mean, rtol=1e-5)
        assert layer.tokens == parts.layers[name].tokens


def test_layers_fed_by_a_norm_are_found_by_the_tensor_they_read(block):
    assert calibrate(block, [inputs()]).fed_by_norm == {"norm1": ("q", "k", "v"), "norm2": ("fc1",)}


class Leaky(nn.Module):
    """A norm whose output is read by a Linear and by something else, in several ways."""

    def __init__(self, leak):
        super().__init__()
        self.norm, self.fc, self.leak = nn.LayerNorm(8), nn.Linear(8, 8), leak

    def forward(self, x):
        h = self.norm(x)
        return self.leak(self.fc, h)


LEAKS = {
    "residual": lambda fc, h: fc(h) + h,
    "concatenation": lambda fc, h: torch.cat([fc(h), h]),
    "in place": lambda fc, h: fc(h.mul_(2)),
    "view": lambda fc, h: fc(h) + h[..., :1],
    "other weight": lambda fc, h: fc(h) + F.linear(h, torch.eye(8)),
    "two sources": lambda fc, h: fc(h) + fc(h * 2),
    "norm of norm": lambda fc, h: fc(h) + F.layer_norm(h, (8,)),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_norm_with_another_reader_is_not_folded(leak):
    assert calibrate(Leaky(LEAKS[leak]), [inputs()]).fed_by_norm == {}


def test_looking_at_the_shape_is_not_reading():
    model = Leaky(lambda fc, h: fc(h.contiguous()).view(h.shape[0], -1) * h.size(1))
    assert calibrate(model, [inputs()]).fed_by_norm == {"norm": ("fc",)}


def test_a_linear_tied_to_another_weight_is_not_folded():
    model = Leaky(lambda fc, h: fc(h))
    model.other = nn.Linear(8, 8)
    model.other.weight = model.fc.weight
    assert calibrate(model, [inputs()]).fed_by_norm == {}


def test_works_inside_inference_mode(block):
    with torch.inference_mode():
        assert calibrate(block, [inputs()]).fed_by_norm == {"norm1": ("q", "k", "v"), "norm2": ("fc1",)}


def test_nothing_is_left_behind_even_after_an_error(block):
    block.train()
    block.fc2.eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    flags = [layer.training for layer in block.modules()]
    with pytest.raises(RuntimeError, match="stop"), observing(block) as observer:
        block(inputs())
        assert observer.tallies() and not block.training
        raise RuntimeError("stop")
    assert _get_current_function_mode() is None
    assert [layer.training for layer in block.modules()] == flags
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in block.modules())
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_layers_never_reached_are_reported(block):
    block.spare = nn.Linear(8, 8)
    assert calibrate(block, [inputs()]).unreached == ("spare",)


@pytest.mark.parametrize("batch", [(inputs(),), [inputs()], {"x": inputs()}], ids=["tuple", "list", "mapping"])
def test_bare_modules_take_their_own_inputs(block, batch):
    assert calibrate(block, [batch]).layers["q"].tokens == 60


def test_empty_calibration_is_refused(block):
    with pytest.raises(EdgelibError, match="calibration set is empty"):
        calibrate(block, [])


def test_a_data_set_needs_a_loaded_model(block):
    with pytest.raises(EdgelibError, match="edgelib.load"):
        calibrate(block, Images(inputs()))
    with pytest.raises(EdgelibError, match="got str"):
        calibrate("scenes-clip", [])


@pytest.mark.parametrize("calibration", ["balanced", [inputs()], inputs()], ids=["name", "list", "tensor"])
def test_a_loaded_model_needs_a_data_set(block, calibration):
    with pytest.raises(EdgelibError, match=r'got (str|list|Tensor); pass edgelib.calibration_set\("balanced"\)'):
        calibrate(Model(block), calibration)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_activation_names_the_first_layer(block, bad):
    x = inputs()
    x[3, 2, 1] = bad
    with pytest.raises(EdgelibError, match="layer 'q' hold NaN or inf"):
        calibrate(block, [x])
