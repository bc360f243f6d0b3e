"""A model of one's own is timed on tiny folders: every case, kept through a kill, named; wrong input is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import vlm_folders
from PIL import Image
from torch import nn

from edgelib import load
from edgelib.devices.measurements import load_measurements, named_cases, save_measurements
from edgelib.devices.profiling import Repeats
from edgelib.devices.shapes import decoder
from edgelib.errors import EdgelibError
from edgelib.kernels.layers import by_layer
from edgelib.quant.quantize import quantize
from edgelib.report.claims.devices import one_model_claim
from edgelib.study.machine import Suite
from edgelib.study.store import CellStore
from edgelib.study.timing import asked as asking
from edgelib.study.timing import own
from edgelib.study.timing.answering import Answering
from edgelib.study.timing.identity import identity
from edgelib.study.timing.session import Progress, clock_text
from edgelib.study.timing.shown import shown
from edgelib.study.timing.work import counted

TINY = Suite(
    encoders={}, decoders={}, new_tokens=2, repeats=Repeats(least=1, most=1), runs=Repeats(least=1, most=1), megabytes=1
)
SIZE = "32x32"


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return load(vlm_folders.qwen2_vl(tmp_path_factory.mktemp("vlm") / "tiny-vlm"))


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    return load(vlm_folders.siglip(tmp_path_factory.mktemp("dual") / "tiny-siglip"))


def asked(model, kernels=("torch-fp32", "torch-bf16"), batches=(1,), images="32"):
    return asking.Asked(model, kernels, batches, shown(images, max(batches)), TINY)


def test_a_model_that_writes_is_timed_by_size_batch_and_kernel(writer, tmp_path):
    found = own.measure_model(asked(writer, batches=(1, 2), images="32,32x64"), name="board")
    again = load_measurements(save_measurements(found, tmp_path / "out"))
    case = ["config", "batch", "image"]
    wanted = {(k, b, s) for k in ("torch-fp32", "torch-bf16") for b in (1, 2) for s in ("32x32", "32x64")}
    for table in (again.encoders, again.generation):
        assert set(table[case].itertuples(index=False, name=None)) == wanted and len(table) == len(wanted)
    by_size = again.generation.groupby("image")["image_tokens"].first()
    assert by_size["32x64"] > by_size["32x32"] > 0
    assert (again.generation[["kv", "encode_p50", "prepare_p50"]] > 0).all(axis=None)
    weights = again.generation.groupby("config")["weights"].first()
    assert weights["torch-bf16"] < 0.6 * weights["torch-fp32"]
    assert dict(again.machine["model"]) == identity(writer).model_dump() and not again.machine["left_out"]
    assert decoder(tmp_path / "out") == decoder(tmp_path / "out" / "config.json"), "the folder names an architecture"
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text(), "no path of this machine"
    assert named_cases(again.encoders)["model"].iloc[0] == "tiny-vlm, images of 32x32"


def test_a_model_that_does_not_write_has_no_table_of_generation(dual, tmp_path):
    found = own.measure_model(asked(dual, ("torch-fp32",)))
    again = load_measurements(save_measurements(found, tmp_path))
    assert again.encoders["part"].tolist() == ["vision", "text"] and not len(again.generation)
    assert not (tmp_path / "generation.csv").exists()


def test_what_cannot_be_measured_is_named_with_its_reason(writer, monkeypatch):
    monkeypatch.setattr(own, "memory_bytes", lambda: 1)
    with pytest.raises(EdgelibError, match="no case of tiny-vlm could be measured here: .*do not fit"):
        own.measure_model(asked(writer, ("torch-fp32",)))


def test_a_run_that_is_killed_goes_on_with_the_case_it_was_at(writer, tmp_path):
    store, begun = CellStore(tmp_path), []

    def until_the_fourth(what):
        begun.append(what)
        if len(begun) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.measure_model(asked(writer), store=store, report=until_the_fourth)
    again = []
    own.measure_model(asked(writer), store=store, report=again.append)
    assert again[0] == begun[3] and not set(again[1:]) & set(begun)


def test_a_dry_run_names_the_cases_of_the_real_one(writer):
    begun = []
    own.measure_model(asked(writer), report=begun.append)
    predicted = own.predicted(asked(writer))
    assert [case.what for case in predicted] == begun[2:-1] and all(case.seconds > 0 for case in predicted)


@pytest.mark.parametrize("kernel", ["onnx-fp32", "onnx-int8"])
def test_a_kernel_by_layer_answers_as_its_simulation(writer, kernel):
    pytest.importorskip("onnxruntime")
    layers = writer.towers()["decoder"]
    made = by_layer(writer, kernel, layers).module
    plain = writer.module if kernel == "onnx-fp32" else quantize(writer, "w8a8-minmax").module
    inputs = writer.inputs(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["is there a red circle"])
    with torch.inference_mode():
        torch.testing.assert_close(made(**inputs).logits, plain(**inputs).logits, atol=1e-4, rtol=1e-3)


def test_a_kernel_by_layer_says_what_it_does_not_multiply(writer):
    pytest.importorskip("onnxruntime")
    narrow = nn.Sequential(nn.Linear(24, 8))
    with pytest.raises(EdgelibError, match="group"):
        by_layer(narrow, "onnx-int4", ["0"])
    with pytest.raises(EdgelibError, match="unknown kernel"):
        by_layer(writer, "onnx-int9", [])


def test_first_and_later_tokens_come_in_order_and_the_answer_does_not_end_early(writer):
    answering = Answering(writer, shown("32", 2).batch(SIZE, 2))
    marks = answering.run(5)
    assert len(marks) == 7 and (np.diff(marks) >= 0).all() and answering.apart
    assert answering.tokens > answering.image_tokens > 0 and answering.cache_bytes() > 0


def test_work_is_counted_by_its_closed_form():
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    work = counted(net, lambda: net(torch.zeros(3, 8)))
    assert work.operations == 2 * 3 * (8 * 4 + 4 * 2)
    assert work.weights == {"0": 32, "2": 8} and work.passed == 3 * (8 + 4 + 4 + 2)
    assert work.bytes(frozenset(["0"]), 8, 32) == 32 + (8 + work.passed) * 4


def test_an_identity_tells_weights_from_architecture(tmp_path):
    first, other = (load(vlm_folders.siglip(tmp_path / name, seed)) for name, seed in (("a", 0), ("b", 1)))
    same = load(tmp_path / "a")
    assert identity(first) == identity(same)
    assert identity(first).architecture == identity(other).architecture
    assert identity(first).weights != identity(other).weights


def test_a_page_says_whether_it_is_about_one_model(dual, writer):
    own_facts, other = identity(dual), identity(writer)
    said = [
        one_model_claim(machine, own_facts)
        for machine in (
            {},
            {"model": own_facts.model_dump()},
            {"model": own_facts.model_dump() | {"weights": hashlib.sha256(b"").hexdigest()}},
            {"model": other.model_dump()},
        )
    ]
    beginnings = ["Not one model", "One model", "One architecture with two sets of weights", "Not one model"]
    assert [text.startswith(begin) for text, begin in zip(said, beginnings, strict=True)] == [True] * 4


def test_images_of_a_folder_are_grouped_by_size(tmp_path):
    for at, size in enumerate([(8, 6), (8, 6), (4, 4)]):
        Image.new("RGB", size, (at, 0, 0)).save(tmp_path / f"{at}.png")
    found = shown(tmp_path, 2)
    assert {size: len(images) for size, images in found.sizes.items()} == {"4x4": 1, "6x8": 2}
    assert [int(image[0, 0, 0]) for image in found.batch("6x8", 3)] == [0, 1, 0]
    assert shown("6x8,4", 1).sizes.keys() == found.sizes.keys() and found.digest != shown("6x8,4", 1).digest


@pytest.mark.parametrize(
    ("files", "reason"),
    [({}, "holds no images .nothing."), ({"a.txt": b"x"}, "1 of .txt"), ({"a.png": b"x"}, "a.png is no image")],
    ids=["empty", "other files", "no picture"],
)
def test_a_folder_without_images_says_what_it_holds(tmp_path, files, reason):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(EdgelibError, match=reason):
        shown(tmp_path)


@pytest.mark.parametrize("size", ["0", "9000", "8x0"])
def test_sizes_that_no_image_has_are_refused(size):
    with pytest.raises(EdgelibError, match="sides go from 1 to 8192"):
        shown(size)


def test_images_that_the_context_does_not_hold_are_refused_before_anything_is_timed(writer):
    with pytest.raises(EdgelibError, match="an image of 32x32 and 1000 new .* choose smaller images"):
        asking.check(replace(asked(writer), suite=replace(TINY, new_tokens=1000)))


def test_remaining_time_follows_how_true_the_prediction_was():
    now, lines = [0.0], []
    progress = Progress({"a": 10.0, "b": 20.0}, lines.append, clock=lambda: now[0])
    progress("a")
    now[0] = 20.0
    progress("b")
    assert lines == ["[1/2] a; about 0:30 left", "[2/2] b; about 0:40 left"]
    assert clock_text(3725) == "1:02:05"


@pytest.mark.parametrize("text", ["", " ", "４８", "48x４８"], ids=["empty", "blank", "wide digits", "one wide side"])
def test_neither_nothing_nor_digits_of_other_scripts_are_images(text):
    with pytest.raises(EdgelibError, match="neither a folder nor sizes in pixels"):
        shown(text)


def test_images_beyond_memory_are_refused_before_they_are_drawn():
    with pytest.raises(EdgelibError, match="name a smaller size or batch"):
        shown("8192", 10**9)
