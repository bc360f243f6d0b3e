"""What a chapter's numbers were made from is told whole, the same each time, and without a place on a machine."""

from __future__ import annotations

import configparser
import hashlib
import json
import re

import pytest
from helpers import ROOT
from huggingface_hub import constants

from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.schema.provenance import origin
from edgelib.models.load import EMBEDDED
from edgelib.report.provenance import provenance_html
from edgelib.source import code_version


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub that holds one model and one data set."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for repo in ("models--some--clip", "datasets--some--photos"):
        (tmp_path / repo / "refs").mkdir(parents=True)
        (tmp_path / repo / "refs" / "main").write_text("ab12\n")
    snapshot = tmp_path / "models--some--clip" / "snapshots" / "ab12"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")


def test_everything_that_decides_a_number_is_told():
    told = RobustnessGap(seed=3).provenance()
    weights = sha256((EMBEDDED / "scenes-clip" / "model.safetensors").read_bytes())
    assert told["sources"]["model"] == f"scenes-clip: weights {weights}"
    assert told["sources"]["dataset"] == "scenes: of this version of edgelib"
    assert told["code"] == code_version("edgelib.chapters.robustness_gap") != code_version("edgelib")
    assert told["seed"] == told["parameters"]["seed"] == 3 and told["device"] == "cpu" and told["machine"]
    assert {"python", "torch", "transformers"} <= set(told["libraries"])
    assert json.loads(json.dumps(told)) == told


def test_it_is_the_same_each_time_and_names_no_place_of_the_machine(tmp_path):
    folder = tmp_path / "my-photos"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "1.png").write_bytes(b"cat")
    parameters = RobustnessGap(dataset=str(folder), results=str(tmp_path / "results"))
    html = provenance_html(parameters.provenance())
    assert html == provenance_html(parameters.provenance())
    assert str(tmp_path) not in html and "my-photos: " in html and str(ROOT) not in html


def test_files_are_known_by_what_they_hold(tmp_path):
    for name, data in (("a.safetensors", b"1"), ("b.safetensors", b"2"), ("notes.txt", b"3")):
        (tmp_path / name).write_bytes(data)
    lines = f"{sha256(b'1')}  a.safetensors\n{sha256(b'2')}  b.safetensors\n"
    assert origin(str(tmp_path), model=True) == f"weights {sha256(lines.encode())} of 2 files"
    assert origin(str(tmp_path / "notes.txt")) == sha256(b"3")
    before = origin(str(tmp_path / "notes.txt"))
    (tmp_path / "notes.txt").write_bytes(b"4")
    assert origin(str(tmp_path / "notes.txt")) != before


def test_a_hub_id_tells_its_revision(hub):
    assert origin("some/clip", model=True) == f"revision ab12, weights {sha256(b'weights')}"
    assert origin("some/photos:plain") == "revision ab12"
    assert origin("some/other") == "revision unknown"


def test_html_of_values_is_escaped():
    told = RobustnessGap().provenance()
    told["sources"]["dataset"] = "<img src=x>"
    assert "<img" not in provenance_html(told)


def test_runs_on_two_machines_compare_equal_when_sanitized():
    rules = configparser.RawConfigParser()
    rules.read(ROOT / "tests" / "sanitize.cfg")
    here = RobustnessGap().provenance()
    there = here | {"machine": "another", "libraries": {"torch": "1.0"}, "code": "0" * 64, "edgelib": "9"}
    texts = [provenance_html(values) for values in (here, there, here | {"seed": 1})]
    rule = rules["provenance"]
    one, two, three = (re.sub(rule["regex"], rule["replace"], text) for text in texts)
    assert texts[0] != texts[1] and one == two != three
