"""The doctor: what any model is and can do, the fix for any fault, and never a traceback."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import vlm_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from edgelib import load, quantize, save_packed
from edgelib.cli import app
from edgelib.doctor import environment, packages, page
from edgelib.doctor.finding import Finding, fault_of, guarded
from edgelib.doctor.models import Examined, examine
from edgelib.errors import EdgelibError
from edgelib.models.load import EMBEDDED
from edgelib.quant.report import parameter_plan, parameter_report


def of(found: Examined, topic: str) -> Finding:
    """The one finding of a topic."""
    return next(finding for finding in found.findings if finding.topic == topic)


@pytest.fixture
def clip(tmp_path):
    """A folder of one's own to break."""
    return shutil.copytree(EMBEDDED / "scenes-clip", tmp_path / "clip")


def rewrite(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- models that work


@pytest.mark.parametrize(
    ("name", "family", "chapters"),
    [
        (
            "scenes-clip",
            "clip",
            {"embedded_world", "robustness_gap", "calibration_sensitivity", "efficiency", "pareto"},
        ),
        ("scenes-vlm", "qwen2_vl", {"edge_engines", "vlm_accuracy", "fp8_kv_ablation"}),
    ],
)
def test_an_embedded_model_is_told_whole(name, family, chapters):
    found = examine(name)
    assert found.works and all(finding.mark == "ok" for finding in found.findings)
    assert found.facts["family"] == family and set(found.facts["chapters"]) == chapters
    assert found.facts["parameters"] == sum(p.numel() for p in load(name).module.parameters())
    assert found.facts["quantizable"] + sum(found.facts["kept"].values()) == pytest.approx(1)
    assert {"torch-fp32", "torch-bf16"} <= set(found.facts["kernels"])


def test_a_supervised_classifier_is_also_a_baseline():
    assert "baseline_model" in examine("scenes-vit").facts["chapters"]["robustness_gap"]
    assert examine("scenes-clip").facts["chapters"]["robustness_gap"] == ["model"]


@pytest.mark.parametrize("write", [vlm_folders.siglip, vlm_folders.qwen3_vl_moe], ids=lambda write: write.__name__)
@pytest.mark.parametrize("spec", ["w8a8-minmax", "fp16"])
def test_what_is_planned_is_what_quantizing_does(tmp_path, write, spec):
    model = load(write(tmp_path / "model"))
    plan, made = parameter_plan(model, spec), parameter_report(quantize(model, spec))
    assert plan.sort_values("parameter").to_dict("list") == made.sort_values("parameter").to_dict("list")


def test_without_its_weights_a_model_is_told_from_its_shapes(tmp_path):
    folder = vlm_folders.qwen3_vl(tmp_path / "qwen")
    whole, shapes = examine(str(folder)), examine(str(folder), weights=False)
    assert of(shapes, "weights").text.startswith("not read: not asked for")
    told = ("parameters", "quantizable", "kept", "caches", "kernels", "chapters", "processor")
    assert {key: whole.facts[key] for key in told} == {key: shapes.facts[key] for key in told}
    assert whole.facts["features_shared"] and "features_shared" not in shapes.facts


def test_a_model_that_does_not_fit_into_memory_is_not_read(monkeypatch):
    monkeypatch.setattr("edgelib.doctor.models.free_bytes", lambda: 10**6)
    found = examine("scenes-vlm")
    assert found.works and of(found, "weights").mark == "note" and "more memory" in of(found, "weights").fix
    assert found.facts["chapters"]


# --- models that do not


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def nan(folder):
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN = {
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
    "pickled": (pickled, "pickled weights that can run code"),
    "cut": (cut, "damaged or cut short"),
    "nan": (nan, "NaN or infinite"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    "text for config": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "unknown family": (lambda folder: rewrite(folder, model_type="clipp"), "did you mean 'clip'"),
    "a part of the wrong type": (lambda folder: rewrite(folder, vision_config="x"), "does not load|no CLIPModel"),
    "bitsandbytes": (lambda folder: rewrite(folder, quantization_config={"load_in_4bit": True}), "quantized already"),
    "sizes of another model": (lambda folder: rewrite(folder, projection_dim=7), "of another shape"),
    "no image size": (lambda folder: (folder / "preprocessor_config.json").write_text("[]"), "preprocessor_config"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_a_fault_with_its_fix(clip, fault):
    make, said = BROKEN[fault]
    make(clip)
    found = examine(str(clip))
    faults = [finding for finding in found.findings if finding.fault]
    assert not found.works and len(faults) == 1 and len(faults[0].fix) > 10
    assert re.search(said, f"{faults[0].text}; {faults[0].fix}")
    assert "report it" not in faults[0].fix, "a known kind of fault"
    assert not found.facts.get("chapters")


def test_a_packed_folder_is_told_from_a_baseline(tmp_path):
    save_packed(quantize(load("scenes-clip"), "w8a8-minmax"), tmp_path / "packed")
    found = examine(str(tmp_path / "packed"))
    assert not found.works and found.facts["quantized_already"] == "edgelib packed"
    assert of(found, "packed").mark == "ok" and "load_packed" in of(found, "folder").fix
    (tmp_path / "packed" / "config.json").write_text("{}")
    assert of(examine(str(tmp_path / "packed")), "packed").fault


@pytest.mark.parametrize(
    "name", ["nope", "", "a/b", "~nobody/x", "a\0b", "x" * 5000, "./", "\u202egnp", "a\nb", "\ud800"]
)
def test_a_name_that_leads_nowhere_is_one_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examine(name)
    assert not found.works and len(found.findings) == 1
    text = page.as_text({}, [found])
    assert text.isascii() or all(line.isprintable() for line in text.splitlines())
    assert json.loads(page.as_json({}, [found]))["faults"] == 1


# --- this machine


def test_the_environment_is_told_without_a_fault(tmp_path):
    sections = environment.environment(str(tmp_path / "results"))
    assert list(sections) == ["machine", "packages", "extras", "devices", "kernels", "folders"]
    assert not page.faults(sections, [])
    assert {"torch", "transformers", "edgelib"} <= {finding.topic for finding in sections["packages"]}
    assert all(finding.fix.startswith("pip install") for finding in sections["extras"] if finding.mark == "note")
    assert not (tmp_path / "results").exists()


def test_every_extra_says_what_it_is_for():
    assert {finding.topic.removeprefix("extra ") for finding in packages.extras()} == set(packages.USES)


def test_a_package_that_is_missing_or_old_is_a_fault(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda name: "0.1")
    found = {finding.topic: finding for finding in packages.required()}
    assert found["torch"].fault and found["torch"].fix == "pip install 'torch>=2.8'" and not found["tqdm"].fault


def test_a_container_limits_cores(tmp_path):
    assert environment.core_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert environment.core_limit(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert environment.core_limit(tmp_path) is None


@pytest.mark.parametrize(
    "raised", [RuntimeError("a\nb"), OSError(13, "denied"), RecursionError(), EdgelibError("a; b")]
)
def test_an_examination_that_fails_leaves_the_others(raised):
    def look():
        yield Finding("first", "seen")
        raise raised

    first, finding = guarded("topic", look)
    assert first.mark == "ok" and finding.fault and finding.topic == "topic" and finding.fix


def test_a_mistake_is_cut_into_fault_and_fix():
    found = fault_of("x", EdgelibError("it is wrong (see a; b); take another; or none"))
    assert (found.text, found.fix) == ("it is wrong (see a; b)", "take another; or none")


@given(st.text(max_size=300), st.text(max_size=300), st.integers(60, 140))
@settings(deadline=None, max_examples=50)
def test_no_text_leaves_its_line(topic, text, width):
    shown = page.as_text({"section": [Finding(topic, text, text)]}, [Examined(text)], width)
    assert all(line.isprintable() for line in shown.splitlines())


# --- the command


def run(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_command_says_all_and_its_status_is_one_where_something_cannot_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fine = run("scenes-clip")
    assert fine.exit_code == 0 and "nothing that was asked for is at fault" in fine.output
    wrong = run("scenes-clip", "./nope", "--json")
    said = json.loads(wrong.output)
    assert wrong.exit_code == 1 and [model["works"] for model in said["models"]] == [True, False]
    assert said["faults"] == 1 and said["models"][0]["facts"]["family"] == "clip"
    assert "name a model or a folder" in run().output
