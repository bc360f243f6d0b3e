"""Sentences and figures of speed and devices."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from edgelib.devices import gains, projection
from edgelib.devices.device import legality
from edgelib.devices.shapes import encoder
from edgelib.devices.table import devices
from edgelib.devices.validation import validate
from edgelib.devices.workload import encode_work
from edgelib.files.size import packed_size
from edgelib.models.architectures import architecture
from edgelib.quant.scheme import scheme
from edgelib.report import devices as tables
from edgelib.report.claims.devices import narrowing_claim, projection_text, speed_ratio_claim, speedup_claim
from edgelib.report.figures import devices as figures


def test_a_speed_up_is_told_only_where_its_quartiles_agree():
    cases = [("fp32", 1, 50, 48, 52), ("int8", 1, 20, 19, 22), ("fp32", 8, 300, 290, 310), ("int8", 8, 310, 280, 330)]
    timed = pd.DataFrame(cases, columns=["config", "batch", "p50", "p25", "p75"]).assign(model="m")
    found = gains.speedup_table(timed, "p50", "fp32").set_index(["config", "batch"])
    fast, open_ = (speedup_claim(found.loc[("int8", b)], "INT8", "FP32", "this machine") for b in (1, 8))
    assert "measured to be 2.50 times as fast as FP32 (2.18 to 2.74" in fast and "cannot be told apart" in open_


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_every_figure_takes_its_rows(ax):
    table = devices()
    device = table["agx-orin-64gb"]
    names = {name: figures.series(k) for k, name in enumerate(["fp32", "int8", "compiled", "eager"])}
    rows = pd.DataFrame(
        dict(config=["fp32", "int8"], name=["a", "b"], speedup=[1, 2.5], intensity=[2, 30], tops=[0.1, 3])
    )
    rows = rows.assign(**{part: [1e6, 2e6] for part in ("weights", "kv", "activations", "workspace")})
    points = projection.published_points(table)[:6].assign(projected=20.0, low=10.0, high=40.0)
    legal = legality([device], {"w8a8-minmax": ("int8", "int8"), "fp8": ("fp8_e4m3", "fp8_e4m3")})
    for draw in (
        lambda: figures.speedups(rows, ax, "x"),
        lambda: figures.roofline(rows, ax, device, (0.2, 90), names),
        lambda: figures.memory_split(rows, ax),
        lambda: figures.projected_and_measured(points, ax, names),
        lambda: figures.legality_grid(legal, ax, {device.key: "Orin"}, {"w8a8-minmax": "W8A8", "fp8": "FP8"}),
    ):
        ax.clear()
        assert draw() is ax
        ax.figure.canvas.draw()


def test_models_and_steps_have_panels_and_one_legend_of_what_they_share():
    table = devices()
    rows = pd.DataFrame(dict(config=["a", "b", "a"], model=["m", "m", "n"], intensity=[2, 30, 5], tops=[0.1, 3, 1]))
    roofs = figures.roofline_panels(rows, table["agx-orin-64gb"])
    points = projection.published_points(table).assign(projected=20.0, low=10.0, high=40.0)
    steps = figures.projection_panels(points)
    assert [ax.get_title() for ax in roofs.axes] == ["m", "n"]
    assert [ax.get_title() for ax in steps.axes] == list(figures.STEPS.values())
    names = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in (roofs, steps)]
    assert names[0] == ["a", "b"] and set(names[1]) == set(points["runtime"]) and len(names[1]) <= 8
    plt.close("all")


def test_sizes_have_a_row_per_model_and_configuration():
    table = tables.size_table(["clip-vit-base-patch32"], ["fp32", "w8a8-minmax"])
    assert table[["model", "config"]].to_numpy().tolist() == [
        ["clip-vit-base-patch32", c] for c in ("fp32", "w8a8-minmax")
    ]
    model = architecture("clip-vit-base-patch32")
    assert table["bytes"][0] == packed_size(model, "fp32")["total"]
    assert table["bytes"][1] == packed_size(model, "w8a8-minmax", other_dtype=torch.float16)["total"]


def test_machines_and_devices_are_described_with_units_and_doubts():
    machine = {
        "name": "EPYC",
        "threads": 2,
        "ceilings": {"memory_gb_s": 10.5, "fp32_tops": 0.1},
        "versions": {"torch": "2"},
    }
    assert tables.machine_facts(machine) == {
        "machine": "EPYC",
        "threads": 2,
        "used by others meanwhile": "not recorded",
        "memory, GB/s": "10.5",
        "fp32 product, Tops/s": "0.1",
        "torch": "2",
    }
    orin = replace(devices()["agx-orin-64gb"], unverified=("usable_gib", "rates"), rates={"int8": 85.0, "fp16": None})
    line = tables.device_facts([orin], orin).iloc[0]
    assert line["Device"].endswith(" (measured)") and line["Usable, GiB"].endswith("*")
    assert line["Rates, 1e12/s"] == "int8 85, fp16 ?*"


def test_what_fits_is_said_and_what_does_not_run():
    rows = pd.DataFrame({"need_gib": [3.21, 9, 1], "free_gib": [1, -0.84, 2], "fits": [True, False, True]})
    assert list(tables.fit().cells(rows.assign(legal=[True, True, False]))) == ["3.2 fits", "0.8 short", "does not run"]


def test_times_are_projected_where_a_configuration_runs():
    table = devices()
    chosen = [table["agx-orin-64gb"], table["jetson-nano"]]
    project = projection.projector(projection.published_points(table))
    shape = encoder("clip-vit-base-patch32")
    works = {c: encode_work(shape, 8, other_bits=16) for c in ("w8a8-minmax", "fp8")}
    times = tables.projected_times(project, works, chosen, "encode")
    assert list(times) == ["Device", "W8A8 min-max", "FP8 W8A8"] and times["FP8 W8A8"].tolist() == ["no", "no"]
    direct = project(works["w8a8-minmax"], chosen[0], *scheme("w8a8-minmax").units, step="encode")
    assert times["W8A8 min-max"][0] == projection_text(direct)


def test_a_measurement_that_would_narrow_is_named_with_its_worth():
    said = narrowing_claim(projection.Projection(20.0, (10.0, 40.0), 0.9, "memory"), 1.55, "a board", "encode")
    assert "the 90 % interval is a factor of 2.0 either way" in said and said.endswith("narrows it to a factor of 1.6")
    assert "timing one image of the unquantized model" in said


def test_speed_ratios_have_an_interval_and_a_calibrated_guess():
    published = projection.published_points(devices())
    ratios = tables.speed_ratios(validate(published, 0.9).points, published)
    decoding = ratios[ratios["step"] == "decode"]
    assert ((decoding["low"] < decoding["projected"]) & (decoding["projected"] < decoding["high"])).all()
    said = speed_ratio_claim(decoding.iloc[0], "board")
    assert "measured " in said and said.endswith(f"on the device {decoding['calibrated'].iloc[0]:.2f}x")
