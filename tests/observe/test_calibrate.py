"""Calibration statistics against brute force, and what the pass leaves behind: nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import Block, Images, Model, inputs
from safetensors.torch import save_file
from scipy.stats import kstest
from torch import nn
from torch.overrides import _get_current_function_mode
from transformers import SiglipConfig, SiglipModel

from edgelib.data.calibration import calibration_set
from edgelib.errors import EdgelibError
from edgelib.models.load import load
from edgelib.observe.attention import attention_blocks
from edgelib.observe.calibrate import calibrate
from edgelib.observe.statistics import load_statistics, save_statistics
from edgelib.observe.tallies import MODALITIES, wide_device
from edgelib.observe.watch import Pass, observing


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block()


def brute_force(module, batches) -> dict[str, torch.Tensor]:
    """All rows [n, in] that every Linear reads, seen by hooks."""
    seen = {name: [] for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, a, name=name: seen[name].append(a[0].flatten(0, -2).clone()))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        [module.eval()(batch) for batch in batches]
    [hook.remove() for hook in hooks]
    return {name: torch.cat(rows) for name, rows in seen.items()}


EVERYTHING = ("hessian", "rows", "percentiles")


def test_statistics_are_the_brute_force_ones(block):
    statistics = calibrate(block, inputs().split(5), needs=EVERYTHING)
    seen = brute_force(block, [inputs()])
    assert set(statistics.layers) == set(seen) and statistics.unreached == ()
    for name, x in seen.items():
        layer = statistics.layers[name]
        assert torch.allclose(layer.abs_max, x.abs().amax(0)) and torch.allclose(layer.abs_mean, x.abs().mean(0))
        assert torch.allclose(layer.square_mean, x.square().mean(0))
        assert torch.allclose(layer.hessian, x.T @ x / len(x), atol=1e-5)
        assert torch.allclose(layer.rows, x, atol=1e-5)
        assert layer.tokens == 60


def test_moments_alone_by_default(block):
    layer = calibrate(block, [inputs()]).layers["q"]
    assert [getattr(layer, name) for name in ("hessian", "rows", "row_items", "counts")] == [None] * 4


def test_a_hessian_is_symmetric_and_its_diagonal_is_the_square_mean(block):
    layer = calibrate(block, inputs().split(5), needs="hessian").layers["fc2"]
    assert torch.equal(layer.hessian, layer.hessian.T) and layer.hessian.dtype == torch.float32
    assert torch.allclose(layer.hessian.diagonal(), layer.square_mean)
    assert torch.linalg.eigvalsh(layer.hessian.double()).min() > -1e-6


def test_layers_that_read_one_tensor_share_what_was_kept_of_it(block):
    layers = calibrate(block, [inputs()], needs=EVERYTHING).layers
    for field in ("abs_max", "hessian", "rows", "counts"):
        assert getattr(layers["q"], field) is getattr(layers["k"], field) is getattr(layers["v"], field)
        assert getattr(layers["q"], field) is not getattr(layers["out"], field)


class Fickle(nn.Module):
    """Two Linears that read the same tensor, or one the other's half, or one of them what was changed in place."""

    def __init__(self, how):
        super().__init__()
        self.one, self.two, self.how = nn.Linear(8, 8), nn.Linear(8, 8), how

    def forward(self, x):
        h = x * 1
        self.one(h)
        if self.how == "in place":
            h.view(-1)[:4].mul_(3)
        if self.how == "sometimes" and len(x) > 1:
            h = h * 2
        self.two(h)
        return self.one(h) if self.how == "twice" else h


@pytest.mark.parametrize("how", ["always", "in place", "sometimes", "twice"])
@pytest.mark.parametrize("inference", [False, True], ids=["no grad", "inference mode"])
def test_sharing_never_changes_the_statistics(how, inference):
    model, batches = Fickle(how), inputs(11).split(5)  # the last batch is a single item
    seen = brute_force(model, batches)
    with torch.inference_mode(inference):
        layers = calibrate(model, batches, needs=("hessian", "percentiles")).layers
    for name, x in seen.items():
        assert layers[name].tokens == len(x)
        assert torch.allclose(layers[name].hessian, x.T @ x / len(x), atol=1e-5)
        assert layers[name].counts.sum() == x.numel()


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_float64_stays_on_the_device_if_that_has_it(name):
    assert wide_device(torch.device(name)) == torch.device("cpu" if name == "mps" else name)


def test_linears_that_share_a_weight_share_what_it_multiplied():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    statistics = calibrate(model, inputs().split(5), needs="hessian")
    x = torch.cat(list(brute_force(model, [inputs()]).values()))
    assert statistics.unreached == () and list(statistics.layers) == ["0", "2"]
    for layer in statistics.layers.values():
        assert layer.tokens == len(x) == 120
        assert torch.allclose(layer.hessian, x.T @ x / len(x), atol=1e-5)


def test_rows_are_the_same_sample_for_any_batch_size_and_order(block):
    whole, parts = (
        calibrate(Model(block), Images(inputs(40), order), size, "rows", row_limit=50).layers
        for size, order in ((40, torch.arange(40)), (7, torch.arange(40).flip(0)))
    )
    for name, layer in whole.items():
        assert len(layer.rows) == 50 and torch.allclose(layer.rows, parts[name].rows, atol=1e-5)
        assert torch.equal(layer.row_items, parts[name].row_items)
    x = brute_force(block, [inputs(40)])["fc1"].view(40, 5, 8)
    layer = whole["fc1"]
    assert torch.allclose(layer.rows, x[layer.row_items, layer.row_positions], atol=1e-5)
    assert {MODALITIES[m] for m in layer.row_modalities.tolist()} == {"image"}
    other = calibrate(Model(block), Images(inputs(40)), 40, "rows", seed=1, row_limit=50).layers["fc1"]
    assert not torch.equal(other.row_items, layer.row_items)


def test_rows_are_drawn_uniformly():
    model, x = nn.Linear(1, 1), torch.arange(1000.0)[:, None]
    drawn = torch.cat(
        [calibrate(model, x.split(100), needs="rows", seed=s, row_limit=50).layers[""].rows for s in range(20)]
    )
    assert len(drawn) == 1000 and kstest(drawn[:, 0].numpy() / 1000, "uniform").pvalue > 1e-3


def test_the_modality_of_every_token_is_kept():
    class Mixed(Model):
        def calibration_passes(self, dataset, batch_size):
            for positions, images in dataset.batches(batch_size):
                modality = torch.tensor([[1, 1, 2, 2, 2]]).expand(len(images), -1)
                yield Pass(lambda images=images: self.module(images), positions, modality)

    layer = calibrate(Mixed(Block()), Images(inputs()), 5, "rows").layers["fc1"]
    assert torch.equal(layer.row_modalities == 2, layer.row_positions >= 2) and len(layer.rows) == 60


@settings(max_examples=40)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    st.floats(0.01, 100),
)
@example([1.401298464324817e-45], 1.0)
@example([1.401298464324817e-45, 1.0], 1.0)
@example([0.0, 0.0], 100.0)
def test_a_percentile_is_the_order_statistic_within_its_bucket(values, q):
    x = torch.tensor(values)[:, None]
    layer = calibrate(nn.Linear(1, 1), x.split(7), needs="percentiles").layers[""]
    exact, peak = float(np.percentile(x.abs().numpy(), q, method="inverted_cdf")), float(x.abs().max())
    found = layer.percentile(q)
    if exact < torch.finfo(torch.float32).tiny:  # denormals share their buckets with 0; the largest value is kept
        assert found in (0, peak if exact == peak else 0)
    else:
        assert exact <= found <= exact * (1 + 1 / 256)
    assert layer.percentile(100) == peak


@pytest.mark.parametrize("q", [0, -1, 101, float("nan"), "99", True])
def test_a_percentile_outside_its_range_is_named(block, q):
    layer = calibrate(block, [inputs()], needs="percentiles").layers["q"]
    with pytest.raises(EdgelibError, match="above 0 and at most 100"):
        layer.percentile(q)


def test_percentiles_that_were_not_kept_say_how_to_keep_them(block):
    with pytest.raises(EdgelibError, match="needs="):
        calibrate(block, [inputs()]).layers["q"].percentile(99.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_summed_in_float32_or_better(block, dtype):
    layer = calibrate(block.to(dtype), [inputs().to(dtype)], needs=EVERYTHING).layers["fc2"]
    x = brute_force(block, [inputs().to(dtype)])["fc2"].float()
    assert torch.allclose(layer.hessian, x.T @ x / len(x), atol=1e-4) and torch.allclose(layer.rows, x)
    assert layer.abs_max.dtype == layer.square_mean.dtype == torch.float32


def test_one_item_and_dead_channels_work(block):
    x = inputs(1)
    with torch.no_grad():
        block.norm2.weight[3] = block.norm2.bias[3] = 0
    layer = calibrate(block, [x], needs=EVERYTHING).layers["fc1"]
    assert layer.tokens == 5 and layer.abs_max[3] == layer.square_mean[3] == 0 and (layer.hessian[3] == 0).all()
    constant = calibrate(block, [torch.zeros(3, 5, 8)], needs=EVERYTHING).layers["q"]
    assert constant.percentile(99) == constant.abs_max.max() == 0


def test_unknown_needs_are_named(block):
    with pytest.raises(EdgelibError, match="unknown calibration need 'hesian' .did you mean 'hessian'"):
        calibrate(block, [inputs()], needs=("hesian",))


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


def test_statistics_survive_a_file(block, tmp_path):
    block.spare = nn.Linear(8, 8)
    statistics = calibrate(block, [inputs()], needs=EVERYTHING)
    path = save_statistics(statistics, tmp_path / "new" / "stats.safetensors")
    again = load_statistics(path)
    assert (again.unreached, again.fed_by_norm) == (("spare",), statistics.fed_by_norm)
    assert list(again.layers) == list(statistics.layers) and again.fed_by_value == statistics.fed_by_value
    for name, layer in statistics.layers.items():
        for field, value in vars(layer).items():
            other = getattr(again.layers[name], field)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert again.layers["q"].hessian is again.layers["k"].hessian
    assert [p.name for p in path.parent.iterdir()] == ["stats.safetensors"]


def test_moments_alone_survive_a_file_too(block, tmp_path):
    layer = load_statistics(save_statistics(calibrate(block, [inputs()]), tmp_path / "s")).layers["q"]
    assert layer.hessian is None and layer.tokens == 60


def test_a_file_with_something_else_is_named(block, tmp_path):
    with pytest.raises(EdgelibError, match="no statistics at"):
        load_statistics(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(EdgelibError, match="damaged"):
        load_statistics(tmp_path / "text")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(EdgelibError, match="holds no statistics"):
        load_statistics(tmp_path / "weights")
    with pytest.raises(EdgelibError, match="cannot be written"):
        save_statistics(calibrate(block, [inputs()]), tmp_path / "text" / "stats")


def test_a_failed_write_leaves_the_old_file(block, tmp_path, monkeypatch):
    path = save_statistics(calibrate(block, [inputs()]), tmp_path / "stats")
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(EdgelibError, match="disk full"):
        save_statistics(calibrate(block, [inputs(3)]), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_statistics_of_prompts_do_not_see_padding():
    model, data = load("scenes-clip"), calibration_set("balanced", n=4)
    data = replace(data, class_names=("large red circle", *data.class_names[1:]))
    texts = [f"a photo of a {c}." for c in data.class_names]
    lengths = [len(ids) for ids in model.tokenizer(texts).input_ids]
    assert len(set(lengths)) > 1
    layers = calibrate(model, data, needs="rows").layers
    text = layers["text_model.encoder.layers.0.self_attn.q_proj"]
    assert text.tokens == sum(lengths) and {MODALITIES[m] for m in text.row_modalities.tolist()} == {"text"}
    assert text.row_items.bincount().tolist() == lengths
    alone = calibrate(model, data, batch_size=1).layers["text_model.encoder.layers.1.mlp.fc2"]
    assert torch.allclose(alone.abs_max, layers["text_model.encoder.layers.1.mlp.fc2"].abs_max, rtol=1e-4)


def test_a_probe_shows_which_layers_read_the_same_tensor():
    model = load("scenes-clip")
    with observing(model.module) as observer:
        model.probe()
    tallies = observer.tallies()
    for tower in ("vision_model", "text_model"):
        q, k, out = (tallies[f"{tower}.encoder.layers.0.self_attn.{p}"] for p in ("q_proj", "k_proj", "out_proj"))
        assert q is k is not out
    fed = calibrate(model, calibration_set("balanced", 2)).fed_by_value
    assert len(fed) == len(list(attention_blocks(model.module)))


def tiny_siglip():
    clip = load("scenes-clip")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 512, "max_position_embeddings": 24},
        vision_config={**tower, "image_size": 48, "patch_size": 12},
    )
    return replace(clip, module=SiglipModel(config).eval())


@pytest.mark.parametrize("model", [tiny_siglip, lambda: load("scenes-vit")], ids=["siglip", "timm"])
def test_other_families_are_calibrated_too(model):
    statistics = calibrate(model(), calibration_set("english", 4), 3, EVERYTHING)
    assert statistics.layers and all(len(layer.rows) for layer in statistics.layers.values())
    for name, layer in statistics.layers.items():
        assert name.startswith("vision") or "text" not in name or layer.tokens in (4, 4 * 24), "read to full length"
