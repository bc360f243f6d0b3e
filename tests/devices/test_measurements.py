"""Measured tables: they survive a file, speak of ratios and roofs correctly, and bad folders are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.devices import machine, measurements
from edgelib.devices.measurements import COLUMNS, Measurements, achieved, load_measurements
from edgelib.devices.profiling import Repeats
from edgelib.errors import EdgelibError
from edgelib.kernels.runners import installed_runners, torch_runner
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
    case = dict(model="m", runtime="torch", config="fp32", weight="fp32", activation="fp32")
    size = len(next(iter(columns.values())))
    return pd.DataFrame({c: [case.get(c, 1.0 if c in times(name) else 1)] * size for c in COLUMNS[name]} | columns)


def times(name):
    return [c for c in COLUMNS[name] if c[:4] in ("p25", "p50", "p75", "p95", "ttft", "tpot")]


def at(name, median, **columns):
    """Rows whose times are all those of `median`."""
    return table(name, **columns, **{c: median for c in times(name)})


MEASURED = Measurements(
    MACHINE,
    at("encoders", [50.0, 20.0, 300.0], config=["fp32", "int8", "fp32"], batch=[1, 1, 8], operations=[8e9, 8e9, 64e9]),
    at("generation", [120.0, 30.123456], config=["fp32", "int8"]),
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


def edited(name, old, new):
    """Return what replaces a text in a file of a folder once."""

    def edit(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return edit


def without(name):
    return lambda folder: (folder / name).unlink()


def filled(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def cut(name, characters):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-characters])


BROKEN = {
    "no machine": (without("machine.yaml"), "cannot read the machine .*machine.yaml"),
    "no table": (without("encoders.csv"), "cannot read .*encoders.csv"),
    "no threads": (
        filled("machine.yaml", b"{name: x, ceilings: {fp32_tops: 1}}"),
        "machine.yaml in .*: threads is missing",
    ),
    "not YAML": (filled("machine.yaml", b"{"), "machine.yaml is not YAML"),
    "binary machine": (filled("machine.yaml", bytes(range(256))), "machine.yaml is not YAML"),
    "threads of text": (edited("machine.yaml", "threads: 1", "threads: x"), "threads = 'x': .*integer"),
    "infinite ceiling": (
        edited("machine.yaml", "read_gb_s: 25.0", "read_gb_s: .inf"),
        "ceilings.read_gb_s = inf: must",
    ),
    "ceiling of what": (edited("machine.yaml", "read_gb_s: 25.0", "read: 25.0"), "ceilings.read = 'read': .*pattern"),
    "misspelt": (edited("machine.yaml", "threads: 1", "thread: 1"), "unknown name 'thread' .did you mean 'threads'"),
    "no rows": (filled("encoders.csv", ",".join(COLUMNS["encoders"]).encode() + b"\n"), "encoders.csv holds no rows"),
    "an empty file": (filled("encoders.csv", b""), "encoders.csv holds no rows"),
    "binary table": (filled("encoders.csv", bytes(range(256))), "cannot read .*encoders.csv: .*utf-8"),
    "no columns": (filled("generation.csv", b"a\n1\n"), "generation.csv lacks model"),
    "cut in a row": (cut("generation.csv", 4), "generation.csv, line 3 has 21 values for 22 columns"),
    "cut in a number": (cut("generation.csv", 1), "generation.csv ends in the middle of line 3"),
    "text in a time": (
        edited("encoders.csv", "50,50", "fast,50"),
        "encoders.csv, line 2, p25 = 'fast': must be a number",
    ),
    "infinite time": (edited("encoders.csv", "50,50,50,50", "50,50,50,inf"), "line 2, p95 = 'inf': must be a number"),
    "no time": (edited("encoders.csv", "20,20,20", "20,,20"), "line 3, p50 = '': must be a number"),
    "negative time": (edited("encoders.csv", "300,300", "-300,300"), "line 4, p25 = '-300': must be a number"),
    "falling": (edited("encoders.csv", "50,50,50", "60,50,50"), "line 2: p25 = 60 is above p50 = 50"),
    "half an image": (
        edited("encoders.csv", "int8,fp32,fp32,1,", "int8,fp32,fp32,1.5,"),
        "batch = '1.5': must be a whole",
    ),
    "negative bytes": (
        edited("generation.csv", "1,1,1,1,1\n", "1,1,-1,1,1\n"),
        "generation.csv, line 2, kv = '-1': must",
    ),
    "a truth": (edited("encoders.csv", "8e+09", "True"), "operations = 'True': must be a number"),
    "no name": (edited("encoders.csv", "m,torch", ",torch"), "line 2, model = '': must not be empty"),
    "twice": (edited("encoders.csv", "int8,fp32", "fp32,fp32"), "encoders.csv, line 3 is a case again: m, fp32, 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_folder_is_named(tmp_path, case):
    spoil, words = BROKEN[case]
    spoil(measurements.save_measurements(MEASURED, tmp_path))
    with pytest.raises(EdgelibError, match=words) as error:
        load_measurements(tmp_path)
    assert f"edgelib measure {tmp_path}" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(["machine.yaml", "encoders.csv", "generation.csv"]), data=st.data())
def test_any_change_of_a_file_is_read_or_named(tmp_path_factory, name, data):
    folder = measurements.save_measurements(MEASURED, tmp_path_factory.mktemp("measured"))
    whole = (folder / name).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    (folder / name).write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
    try:
        found = load_measurements(folder)
        reached, machine = achieved(found.encoders, "p50"), measurements.machine_device(found)
    except EdgelibError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert len(reached) == len(found.encoders) and (found.encoders["p50"] > 0).all()
        assert machine.bandwidth_gb_s > 0


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
        repeats=Repeats(least=6, most=6),
        runs=Repeats(least=2, most=2),
        megabytes=1,
        gemm=16,
    )


def test_a_suite_measures_every_case_on_every_runner(tiny, tmp_path):
    threads = torch.get_num_threads()
    found = suite.measure_machine(tiny, [torch_runner()], name="here")
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
        suite.measure_machine(tiny, [torch_runner()], store=store, report=until_the_third)
    again, whole = [], suite.measure_machine(tiny, [torch_runner()], store=store, report=begun.append)
    assert begun[2] == begun[3] and len(set(begun)) == len(begun) - 1, "the case that was stopped, and no other, twice"
    kept = suite.measure_machine(tiny, [torch_runner()], store=store, report=again.append)
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
        suite.measure_machine(tiny, [torch_runner()])


def test_a_suite_has_cases():
    with pytest.raises(EdgelibError, match="at least one encoder and one decoder"):
        suite.measure_machine(suite.Suite(encoders={}, decoders={}))


def test_kernels_that_are_installed_take_part(tiny):
    pytest.importorskip("onnxruntime")
    wanted = ("torch-fp32", "onnx-int8")
    chosen = [runner for runner in installed_runners() if runner.config in wanted]
    decoders = dict.fromkeys(tiny.decoders, ((1, 1), (2, 3)))
    found = suite.measure_machine(replace(tiny, decoders=decoders), chosen)
    assert found.encoders["config"].unique().tolist() == list(wanted)
    cases = found.generation.groupby("config")["prompt"].apply(list).to_dict()
    assert cases == {"torch-fp32": [1, 3], "onnx-int8": [1, 3]} and not found.machine["left_out"]
    assert (found.generation["ttft_p50"] > 0).all()
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

    other = replace(torch_runner(), runtime="other", config="other", decode=decode)
    monkeypatch.setattr(suite, "memory_bytes", lambda: memory)
    found = suite.measure_machine(tiny, [torch_runner(), other])
    assert found.generation["config"].unique().tolist() == ["torch-fp32"]
    assert "other" in found.machine["left_out"][0] and reason in found.machine["left_out"][0]
