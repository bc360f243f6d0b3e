"""The device table: its files, what runs on a device and why not, and memory."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.devices import device as edge
from edgelib.devices.table import FOLDER, devices, select
from edgelib.errors import EdgelibError

TABLE = devices()
ROW = {"name": "My board", "family": "mine", "bandwidth_gb_s": 50, "rates": {"fp16": 2.0, "int8": 4}}


def own_table(tmp_path, **rows):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"devices": rows}))
    return path


@pytest.mark.parametrize("device", TABLE.values(), ids=list(TABLE))
def test_every_row_names_its_sources_and_what_no_source_confirms(device):
    assert device.sources and device.bandwidth_gb_s and device.usable_gib < device.memory_gib
    assert set(device.unverified) <= {"usable_gib", "rates", "power_w", "bandwidth_gb_s"}
    assert not set(device.lacks) & set(device.rates), "a rate that is listed is not lacking"


def test_narrower_numbers_are_not_slower():
    for device in TABLE.values():
        order = [rate for unit in ("fp32", "fp16", "int8") if (rate := device.rates.get(unit))]
        assert order == sorted(order), device.key


LEGAL = {
    "FP8 on Ampere": ("agx-orin-64gb", "fp8_e4m3", "fp8_e4m3", "No FP8 on Ampere".lower()),
    "NVFP4 below Blackwell": ("h100-sxm", "nvfp4", "nvfp4", "before blackwell"),
    "INT8 on a Nano": ("jetson-nano", "int8", "int8", "no integer dot products"),
    "bf16 on a Nano": ("jetson-nano", "bf16", "bf16", "before ampere"),
    "MX on Ada": ("rtx-4090", "mxfp8", "mxfp8", "before blackwell"),
    "fp16 on x86": ("rtx-4090", "fp16", "fp16", None),
    "INT8 on Orin": ("agx-orin-64gb", "int8", "int8", None),
    "4-bit weights decoded anywhere": ("jetson-nano", "int4", "fp16", None),
    "NVFP4 weights decoded on Orin": ("agx-orin-64gb", "nvfp4", "fp16", None),
    "NVFP4 on Thor": ("agx-thor", "nvfp4", "nvfp4", None),
    "NVFP4 weights with FP8": ("rtx-4090", "nvfp4", "fp8_e4m3", None),
    "INT4 weights with INT8": ("raspberry-pi-5", "int4", "int8", None),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_runs_and_why_not(case):
    key, weight, activation, words = LEGAL[case]
    reason = edge.reason_against(TABLE[key], weight, activation)
    assert reason is None if words is None else words in reason.lower()
    row = edge.legality([TABLE[key]], {"it": (weight, activation)}).iloc[0]
    assert row["legal"] == (words is None) and row["reason"] == (reason or "")


def test_a_device_of_ones_own_is_one_row_and_wins(tmp_path):
    table = devices(own_table(tmp_path, mine=ROW, **{"jetson-nano": ROW | {"name": "Faster"}}))
    assert list(table)[-1] == "mine" and len(table) == len(TABLE) + 1
    assert table["mine"].rate("int8") == 4 and table["jetson-nano"].name == "Faster"
    assert "lists no rate of fp8" in edge.reason_against(table["mine"], "fp8_e4m3", "fp8_e4m3")


def test_memory_that_is_missing_is_named_by_its_amount():
    table = edge.memory_table([TABLE["orin-nano-8gb"]], {"4-bit": 4.2 * 2**30, "16-bit": 15 * 2**30})
    assert table["fits"].tolist() == [True, False]
    assert table["free_gib"].tolist() == pytest.approx([1.0, -9.8])


def row(**changes):
    return {key: value for key, value in (ROW | changes).items() if value is not None}


BAD_ROWS = {
    "misspelt fact": (row(bandwith_gb_s=3), "unknown name 'bandwith_gb_s' .did you mean 'bandwidth_gb_s'"),
    "slipped unit": (row(bandwidth_gb_s=1792e9), "bandwidth_gb_s = 1792000000000.0: must be a number from 1 to 20000"),
    "negative rate": (row(rates={"fp16": -1}), "rates.fp16 = -1: must be a number from 0.01 to 50000"),
    "infinite memory": (row(memory_gib=float("inf")), "memory_gib = inf: must be a number"),
    "memory of NaN": (row(memory_gib=float("nan")), "memory_gib = nan: must be a number"),
    "text as a number": (row(memory_gib="8 GB"), "memory_gib = '8 GB': must be a number"),
    "flag as a number": (row(usable_gib=True), "usable_gib = True: must be a number"),
    "no rates": (row(rates=None), "rates is missing"),
    "empty rates": (row(rates={}), "rates = {}: .*at least 1 item"),
    "rates as a list": (row(rates=[1, 2]), r"rates = \[1, 2\]: .*dictionary"),
    "unknown unit": (row(rates={"int5": 1}), "unknown arithmetic unit 'int5' .did you mean 'int8'"),
    "one power mode": (row(power_w=5), "power_w = 5: .*valid list"),
    "power of words": (row(power_w=["low"]), r"power_w\[0\] = 'low': must be a number"),
    "one source": (row(sources=5), "sources = 5: .*valid list"),
    "source of a number": (row(sources=[5]), r"sources\[0\] = 5: .*valid string"),
    "unknown unverified": (row(unverified=["rate"]), "unknown fact 'rate' .did you mean 'rates'"),
    "number as a name": (row(name=5), "name = 5: .*valid string"),
    "no name": (row(name=None), "name is missing"),
    "order of halves": (row(order=1.5), "order = 1.5: .*valid integer"),
    "more usable than fitted": (row(memory_gib=8, usable_gib=9), "usable_gib = 9 is above memory_gib = 8"),
    "runs and lacks": (row(lacks={"int8": "no"}), "int8 stands in rates and in lacks"),
    "not a row": ([1], "must hold lines 'name: value', got .1."),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, case):
    facts, words = BAD_ROWS[case]
    path = own_table(tmp_path, mine=facts)
    with pytest.raises(EdgelibError, match=words) as error:
        devices(path)
    assert f"device 'mine' in {path}" in str(error.value) and "\n" not in str(error.value)


def test_several_faults_of_a_row_are_listed_at_once(tmp_path):
    with pytest.raises(EdgelibError, match="name is missing; bandwidth_gb_s = .*; sources = 5"):
        devices(own_table(tmp_path, mine=row(name=None, bandwidth_gb_s=-1, sources=5)))


BAD = {
    "no bandwidth": (lambda: edge.Device("x", "X", "f", rates={"fp16": 1}).fact("bandwidth_gb_s"), "'x' has no fact"),
    "no memory": (lambda: edge.memory_table([edge.Device("x", "X", "f")], {"a": 1}), "no fact 'usable_gib'"),
    "zero need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": 0}), "above 0 bytes, got 0"),
    "negative need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": -1}), "got -1"),
    "NaN need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": np.nan}), "got nan"),
    "illegal format": (lambda: TABLE["agx-orin-64gb"].rate("fp8"), "No FP8 on Ampere".replace("No", "no")),
    "unknown format": (lambda: edge.unit_of("int9", "int8"), "unknown weight format"),
    "unknown device": (lambda: select(TABLE, ["orin-nan-8gb"]), "did you mean 'orin-nano-8gb'"),
    "no file": (lambda: devices("nowhere.yaml"), "cannot read the device table nowhere.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()


def test_a_table_may_lie_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    own_table(tmp_path, mine=ROW)
    assert "mine" in devices("~/mine.yaml")


BAD_FILES = {
    "list": b"[1, 2]",
    "no rows": b"devices: 3",
    "no device": b"devices: {}",
    "misspelt": b"devces: {mine: {}}",
    "family of numbers": b"{devices: {mine: {}}, families: 3}",
    "broken": b"{",
    "empty": b"",
    "false": b"false",
    "binary": bytes(range(256)),
    "named twice": b"name: a\nname: b\nfamily: c\nrates: {fp16: 1}",
    "an impossible day": b"name: 2024-13-45",
    "a bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k"))),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_table_is_named(tmp_path, case):
    path = tmp_path / "mine.yaml"
    path.write_bytes(BAD_FILES[case])
    with pytest.raises(EdgelibError, match="mine.yaml") as error:
        devices(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_file_of_one_device_goes_by_its_name(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(yaml.safe_dump(ROW | {"lacks": {"fp8": "no FP8 on this board"}}))
    table = devices(path)
    assert list(table) == [*TABLE, "board"]
    assert edge.reason_against(table["board"], "fp8_e4m3", "fp8_e4m3") == "no FP8 on this board"


def test_a_shipped_device_is_a_file_of_the_same_form(tmp_path):
    for path in sorted((FOLDER / "known").iterdir()):
        own = tmp_path / path.name
        own.write_text(path.read_text())
        assert devices(own)[path.stem] == TABLE[path.stem] and path.suffix == ".yaml"


def test_a_folder_of_devices_is_a_table_in_their_order(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(ROW))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(ROW | {"order": 1}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"devices": {"d": ROW}, "families": {"mine": {"fp8": "none"}}}))
    (tmp_path / "notes.txt").write_text("no device")
    table = devices(tmp_path)
    assert list(table) == [*TABLE, "b", "a", "d"] and table["a"].lacks == {"fp8": "none"}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(ROW))
    with pytest.raises(EdgelibError, match="'d' stands in .*c.yaml and in .*d.yaml"):
        devices(tmp_path)


def test_a_folder_without_devices_is_named(tmp_path):
    with pytest.raises(EdgelibError, match="holds no .yaml file"):
        devices(tmp_path)


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from(sorted(TABLE)), data=st.data())
def test_any_change_of_a_device_is_read_or_named(tmp_path_factory, key, data):
    whole = (FOLDER / "known" / f"{key}.yaml").read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    path = tmp_path_factory.mktemp("devices") / "board.yaml"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
    try:
        board = devices(path)["board"]
        legal = edge.legality([board], {"int8": ("int8", "int8")})
        held = edge.memory_table([board], {"all": 2**30})
    except EdgelibError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert board.key == "board" and len(legal) == len(held) == 1
