"""Measured tables: they survive a file, speak of ratios and roofs correctly, and bad folders are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from edgelib.devices import machine, measurements
from edgelib.devices.measurements import COLUMNS, Measurements, achieved, load_measurements
from edgelib.errors import EdgelibError
from edgelib.kernels import runners
from edgelib.study import machine as suite
from edgelib.study.store import CellStore

MACHINE = {
    "name": "Test board",
    "threads": 1,
    "memory_gib": 8.0,
    "family": "armv8",
    "ceilings": {"copy_gb_s": 20.0, "read_gb_s": 25.0, "fp32_tops": 0.1, "int8_tops": 0.4},
}


def table(name, **columns):
    case = dict(model="m", runtime="torch", config="fp32", weight="fp32", activation="fp32", batch=1)
    filled = {c: [case.get(c, 1.0)] * len(next(iter(columns.values()))) for c in COLUMNS[name]}
    return pd.DataFrame(filled | columns)


MEASURED = Measurements(
    MACHINE,
    table(
        "encoders",
        config=["fp32", "int8", "fp32"],
        batch=[1, 1, 8],
        p50=[50.0, 20.0, 300.0],
        operations=[8e9, 8e9, 64e9],
    ),
    table("generation", config=["fp32", "int8"], tpot_p50=[120.0, 30.123456]),
)


def test_a_folder_gives_back_what_was_saved(tmp_path):
    again = load_measurements(measurements.save_measurements(MEASURED, tmp_path / "board"))
    assert again.machine["ceilings"] == MACHINE["ceilings"]
    pd.testing.assert_frame_equal(again.encoders, MEASURED.encoders, check_dtype=False)
    assert again.generation["tpot_p50"].tolist() == [120.0, 30.12]


def test_the_same_measurements_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        measurements.save_measurements(MEASURED, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_files_stay_whole_when_writing_them_is_cut_short(tmp_path, monkeypatch):
    measurements.save_measurements(MEASURED, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def torn(path, text, **options):
        path.write_bytes(text[:3].encode())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", torn)
        measurements.save_measurements(MEASURED, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    measurements.save_measurements(MEASURED, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_achieved_rates_are_work_by_time():
    row = achieved(MEASURED.encoders.assign(bytes=2e9), "p50").iloc[0]
    assert row["gb_s"] == pytest.approx(40) and row["tops"] == pytest.approx(0.16) and row["intensity"] == 4


def test_a_measured_machine_is_a_row_of_the_device_table():
    device = measurements.machine_device(MEASURED)
    assert device.bandwidth_gb_s == 25 and dict(device.rates) == {"fp32": 0.1, "int8": 0.4}
    with pytest.raises(EdgelibError, match="lack the ceilings read_gb_s"):
        measurements.machine_device(Measurements(MACHINE | {"ceilings": {"copy_gb_s": 1, "fp32_tops": 1}}, *[None] * 2))


BROKEN = {
    "no folder": (lambda folder: (folder / "machine.yaml").unlink(), "make them there with `edgelib measure"),
    "no threads": (lambda folder: (folder / "machine.yaml").write_text("name: x"), "no 'threads'"),
    "not YAML": (lambda folder: (folder / "machine.yaml").write_text("{"), "no measurements in"),
    "no rows": (
        lambda folder: (folder / "encoders.csv").write_text(",".join(COLUMNS["encoders"]) + "\n"),
        "above 0 ms",
    ),
    "an empty file": (lambda folder: (folder / "encoders.csv").write_text(""), "no measurements in .*EmptyDataError"),
    "no columns": (lambda folder: (folder / "generation.csv").write_text("a\n1\n"), "generation.csv .* lacks model"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_folder_is_named(tmp_path, case):
    spoil, words = BROKEN[case]
    spoil(measurements.save_measurements(MEASURED, tmp_path))
    with pytest.raises(EdgelibError, match=words):
        load_measurements(tmp_path)


def test_negative_times_are_refused(tmp_path):
    bad = Measurements(MACHINE, MEASURED.encoders.assign(p50=-1.0), MEASURED.generation)
    with pytest.raises(EdgelibError, match="above 0 ms"):
        load_measurements(measurements.save_measurements(bad, tmp_path))


def test_the_published_measurements_are_whole():
    published = load_measurements()
    assert {"torch-fp32"} <= set(published.encoders["config"]) & set(published.generation["config"])
    assert measurements.machine_device(published).bandwidth_gb_s > 0


@pytest.fixture
def tiny(tmp_path):
    """Two architectures of a few thousand weights in the place of the published ones."""
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    vision = shape | dict(image_size=32, patch_size=16, projection_dim=8)
    text = shape | dict(vocab_size=50, max_position_embeddings=16)
    language = shape | dict(num_key_value_heads=2, vocab_size=50, tie_word_embeddings=True)
    configs = {
        "clip": dict(architectures=["CLIPModel"], model_type="clip", vision_config=vision, text_config=text),
        "lm": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2") | language,
    }
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return suite.Suite(
        encoders={str(tmp_path / "clip"): (1, 2)},
        decoders={str(tmp_path / "lm"): ((1, 3), (2, 3))},
        new_tokens=3,
        rounds=2,
        megabytes=1,
        gemm=16,
    )


def test_a_suite_measures_every_case_on_every_runner(tiny, tmp_path):
    threads = torch.get_num_threads()
    found = suite.measure_machine(tiny, runners.TORCH[:1], name="here")
    assert found.encoders["batch"].tolist() == [1, 2] and found.generation["batch"].tolist() == [1, 2]
    assert (found.encoders["n"] == 6).all() and found.machine["threads"] == threads and not found.machine["left_out"]
    again = load_measurements(measurements.save_measurements(found, tmp_path / "out"))
    assert again.machine["name"] == "here" and (again.generation["kv"] > 0).all()


def test_a_run_that_is_killed_goes_on_with_the_case_it_was_at(tiny, tmp_path):
    store, begun = CellStore(tmp_path), []

    def until_the_third(what):
        begun.append(what)
        if len(begun) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite.measure_machine(tiny, runners.TORCH[:1], store=store, report=until_the_third)
    again, whole = [], suite.measure_machine(tiny, runners.TORCH[:1], store=store, report=begun.append)
    assert begun[2] == begun[3] and len(set(begun)) == len(begun) - 1, "the case that was stopped, and no other, twice"
    kept = suite.measure_machine(tiny, runners.TORCH[:1], store=store, report=again.append)
    assert not again and kept.machine == whole.machine
    for table in ("encoders", "generation"):
        pd.testing.assert_frame_equal(getattr(kept, table), getattr(whole, table))
    assert whole.encoders["n"].dtype.kind == "i" and whole.generation["kv"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("everyone", "own", "clock", "seconds"), [(6, 6, 10, (0, 20)), (8, 4, 10, (4, 20)), (5, 6, 10, (0, 20))]
)
def test_others_take_what_the_processors_did_beside_us(monkeypatch, everyone, own, clock, seconds):
    readings = [(100.0, 7.0, 50.0), (100.0 + everyone, 7.0 + own, 50.0 + clock)]
    monkeypatch.setattr(machine, "_seconds", lambda: readings.pop(0))
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
    assert machine.Watch().seconds() == pytest.approx(seconds)


def test_a_case_of_minutes_is_left_out_and_named(tiny, monkeypatch):
    monkeypatch.setattr(suite, "_TOO_LONG", 0.0)
    with pytest.raises(EdgelibError, match="no case of encoders"):
        suite.measure_machine(tiny, runners.TORCH[:1])


def test_a_suite_has_cases():
    with pytest.raises(EdgelibError, match="at least one encoder and one decoder"):
        suite.measure_machine(suite.Suite(encoders={}, decoders={}))


def test_kernels_that_are_installed_take_part(tiny):
    pytest.importorskip("onnxruntime")
    wanted = ("torch-fp32", "onnx-int8")
    chosen = [runner for runner in runners.installed_runners() if runner.config in wanted]
    decoders = dict.fromkeys(tiny.decoders, ((1, 1), (2, 3)))
    found = suite.measure_machine(replace(tiny, decoders=decoders), chosen)
    assert found.encoders["config"].unique().tolist() == list(wanted)
    cases = found.generation.groupby("config")["prompt"].apply(list).to_dict()
    assert cases == {"torch-fp32": [1, 3], "onnx-int8": [1]}
    (reason,) = found.machine["left_out"]
    assert "onnx-int8, prompts of several tokens: this decoder reads one token at a time" in reason
    first = found.encoders.groupby("config")["weights"].first()
    assert first["onnx-int8"] < first["torch-fp32"] + 50_000  # a tiny file is mostly its description


@pytest.mark.parametrize(
    ("memory", "failure", "reason"),
    [(1000, None, "5 copies in 32 bits"), (10**12, EdgelibError("cannot be exported"), "cannot be exported")],
    ids=["too large", "export fails"],
)
def test_a_decoder_that_a_kernel_cannot_take_is_left_out(tiny, monkeypatch, memory, failure, reason):
    def decode(module):
        raise failure

    other = replace(runners.TORCH[0], runtime="other", config="other", decode=decode)
    monkeypatch.setattr(suite, "memory_bytes", lambda: memory)
    found = suite.measure_machine(tiny, [runners.TORCH[0], other])
    assert found.generation["config"].unique().tolist() == ["torch-fp32"]
    assert "other" in found.machine["left_out"][0] and reason in found.machine["left_out"][0]
