"""What a deployment takes: parts add up to the file, and two chapters count the same model alike."""

from __future__ import annotations

import ast
import shlex

import pandas as pd
import pytest
from helpers import ROOT

from edgelib.devices.deploy.memory import MIB
from edgelib.devices.device import GIB
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import decoder, encoder
from edgelib.devices.table import devices
from edgelib.files.parts import part_bytes, part_of
from edgelib.files.size import packed_size, stored_bytes
from edgelib.models.architectures import architecture
from edgelib.report.devices import fit_table
from edgelib.study.costs import deployment_costs, deployment_memory, device_options, pack_command, runs, writer_needs

KNOWN = devices()
CONFIGS = ["fp32", "fp16", "w4a16", "w8a8-minmax"]


@pytest.fixture(scope="module")
def models():
    return {name: architecture(name) for name in ("clip-vit-base-patch32", "qwen2-vl-2b")}


@pytest.mark.parametrize("name", ["clip-vit-base-patch32", "qwen2-vl-2b"])
@pytest.mark.parametrize("config", CONFIGS)
def test_parts_add_up_to_the_packed_file(models, name, config):
    parts = part_bytes(models[name], config)
    assert sum(parts.values()) == stored_bytes(models[name], config)
    assert all(parts[part] > 0 for part in ("vision tower", "text tower", "connector", "embeddings"))


def test_a_parameter_belongs_to_the_part_that_its_name_says():
    said = {
        "model.visual.merger.mlp.0.weight": "connector",
        "model.visual.blocks.0.attn.qkv.weight": "vision tower",
        "model.language_model.embed_tokens.weight": "embeddings",
        "model.language_model.layers.0.self_attn.q_proj.weight": "text tower",
        "vision_model.encoder.layers.0.self_attn.out_proj": "vision tower",
        "vision_model.embeddings.position_embedding.weight": "vision tower",
        "text_projection.weight": "connector",
        "lm_head.weight": "head",
        "logit_scale": "text tower",
    }
    assert {name: part_of(name) for name in said} == said


def test_memory_holds_the_vision_tower_that_the_decoder_alone_lacks(models):
    sees, writes = encoder("qwen2-vl-2b"), decoder("qwen2-vl-2b")
    memory = deployment_memory(models["qwen2-vl-2b"], ["fp16"], encoder=sees, decoder=writes, context=1024)["fp16"]
    alone = (writes.body + writes.head + writes.embedding) * 2 + writes.kv_bytes(1024)
    assert sum(memory.values()) > alone + memory["vision tower"] > alone + 1.1 * GIB
    assert memory["cache"] == writes.kv_bytes(1024)


def test_a_model_whose_decoder_fits_may_not_fit_itself(models):
    """A Jetson Nano has room for the decoder in 8 bits and not for its vision tower beside it."""
    shapes = {"encoder": encoder("qwen2-vl-2b"), "decoder": decoder("qwen2-vl-2b"), "context": 1024}
    memory = deployment_memory(models["qwen2-vl-2b"], ["w8a16"], **shapes)
    need = writer_needs("qwen2-vl-2b", memory, [KNOWN["jetson-nano"]], 1024).devices["jetson-nano"][0]
    assert need.total > KNOWN["jetson-nano"].memory_gib * GIB and need.reason and not need.runtime


def test_costs_name_a_runtime_or_the_reason(models):
    clip = models["clip-vit-base-patch32"]
    places, shape = [KNOWN["jetson-nano"], KNOWN["orin-nano-8gb"]], encoder("clip-vit-base-patch32")
    configs = [*CONFIGS, "w3a8-minmax"]
    cost = deployment_costs(clip, clip.vision_model, shape, configs, places, projector(published_points(KNOWN)))
    assert ((cost["reason"] == "") == (cost["runtime"] != "")).all()
    ran = cost[cost["runtime"] != ""].groupby("device")["config"].apply(list).to_dict()
    assert ran == {"jetson-nano": ["fp32", "fp16"], "orin-nano-8gb": CONFIGS}
    memory = deployment_memory(clip, configs, encoder=shape)
    nano, orin = device_options(cost, memory, places, 0.3)
    assert [bool(o.runtime) for o in nano.options] == [True, True, False, False, False]
    fp16 = orin.options[1]
    assert fp16.memory["runtime"] == 800 * MIB and fp16.memory["system"] == pytest.approx(2.8 * GIB)
    assert fp16.total > packed_size(clip, "fp16")["total"] + fp16.memory["runtime"] + fp16.memory["system"]
    assert runs(KNOWN["jetson-nano"], "w4a16", "encode")[0] is None


def test_the_command_that_makes_a_configuration_brings_images_where_it_needs_them():
    said = pack_command("my model", "w4a8-gptq", "balanced", 64)
    assert shlex.split(said)[:2] == ["python", "-c"]
    code = shlex.split(said)[2]
    assert 'e.load("my model")' in code and 'e.calibration_set("balanced", n=64)' in code and ast.parse(code)
    assert "calibration" not in pack_command("scenes-clip", "w4a16", "balanced", 64)


def test_two_chapters_count_the_same_model_alike(models):
    """What `efficiency` shows of a model that writes is what `pareto` records of it, and holds its vision tower."""
    shapes = {"encoder": encoder("qwen2-vl-2b"), "decoder": decoder("qwen2-vl-2b"), "context": 1024}
    places = [KNOWN["jetson-nano"], KNOWN["orin-nano-8gb"]]
    memory = deployment_memory(models["qwen2-vl-2b"], CONFIGS, **shapes)
    recorded = writer_needs("qwen2-vl-2b", memory, places, 1024)
    shown = fit_table("qwen2-vl-2b", CONFIGS, places, 1024).set_index(["device", "config"])
    for key, needs in recorded.devices.items():
        for need in needs:
            row, device = shown.loc[key, need.config], KNOWN[key]
            assert row.need_gib == pytest.approx((need.total - need.memory["system"]) / GIB)
            assert row.fits == (need.total <= device.memory_gib * GIB) and row.legal == bool(need.runtime)
            assert row.need_gib * GIB > packed_size(models["qwen2-vl-2b"].model.visual, None)["total"] / 8


TABLES = [ROOT / "book" / "data" / f"{name}.csv" for name in ("efficiency-sizes", "pareto-costs")]


@pytest.mark.skipif(not all(path.is_file() for path in TABLES), reason="the chapters are not published")
def test_published_tables_agree_on_the_bytes_of_one_file():
    """All that is not quantized has 16 bits in a deployed file, in both chapters."""
    sizes, costs = (pd.read_csv(path) for path in TABLES)
    sizes = sizes[sizes["model"] == "clip-vit-base-patch32"].set_index("config")["bytes"]
    costs = costs.drop_duplicates("config").set_index("config")["bytes"]
    both = sizes.index.intersection(costs.index)
    assert len(both) > 2 and (sizes[both] == costs[both]).all()
