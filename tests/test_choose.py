"""`edgelib choose` answers what `decide` does, in words and as JSON, and names what it cannot use."""

from __future__ import annotations

import json

import pytest
from small_record import options_of, outcomes_of, record_of
from typer.testing import CliRunner

from edgelib.cli import app
from edgelib.cli.choose import amount, matching
from edgelib.decide.decision import decide
from edgelib.decide.record import write_record
from edgelib.errors import EdgelibError

COSTS = {"fp32": (4.0, 50.0), "w8a8-minmax": (1.0, 20.0), "w3a8-minmax": (0.5, 5.0)}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    made = record_of(outcomes_of({"fp32": 0.9, "w8a8-minmax": 0.9, "w3a8-minmax": 0.5}, 400, 0, 1.0), options_of(COSTS))
    return made, str(write_record(made, tmp_path_factory.mktemp("record") / "decision.json"))


def run(*arguments: str):
    return CliRunner().invoke(app, ["choose", *arguments])


def test_the_command_and_the_page_agree_because_both_compare_one_record(record):
    made, path = record
    done = run("--record", path, "--memory", "4GB", "--latency", "150ms", "--json")
    [answer] = json.loads(done.stdout)
    for end, said in answer.items():
        found = decide(made, "board", memory=4 * 2**30, latency_ms=150, end=end)
        assert [choice["config"] for choice in said["tied"]] == [choice.config for choice in found.tied]
        assert said["out"] == found.out and said["kept"] == list(found.kept)


def test_the_answer_in_words_has_costs_certainty_commands_and_why_not(record):
    said = run("--record", record[1], "--memory", "4GB", "--latency", "150ms").stdout
    assert "ship W8A8-MINMAX; within 1 point of the best with probability 1.00 (shown)" in said
    assert "1.00 GiB in all, projected 20 ms (13.3 to 30)" in said
    assert "make: make w8a8-minmax" in said and "run:  run" in said and "out: W3A8-MINMAX: -" in said


def test_a_small_budget_leaves_nothing_and_says_why(record):
    assert "nothing fits (needs 4.00 GiB in all of 0.10 GiB" in run("--record", record[1], "--memory", "0.1GB").stdout


MISTAKES = {
    "a unit of another kind": (["--memory", "4ms"], "memory must be a number above 0 with one of the units"),
    "no number": (["--latency", "fast"], "such as 150ms; got 'fast'"),
    "unknown device": (["--device", "boart"], "unknown device 'boart'"),
    "unknown order": (["--order", "price"], "order"),
    "unknown corruption": (["--corruption", "snow"], "corruption"),
    "no record": (["--record", "nowhere.json"], "cannot read the decision record nowhere.json"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_paragraph(record, case):
    arguments, said = MISTAKES[case]
    done = run(*(["--record", record[1]] if "--record" not in arguments else []), *arguments)
    assert done.exit_code == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_device_goes_by_its_key_or_by_words_of_its_name():
    names = {"orin-nano-8gb": "Jetson Orin Nano 8 GB", "orin-nano-8gb-super": "Jetson Orin Nano 8 GB Super", "x": "X"}
    assert matching("orin-nano-8gb", names) == ["orin-nano-8gb"] and matching(None, names) == list(names)
    assert matching("jetson-orin-nano", names) == matching("Orin Nano", names) == list(names)[:2]
    with pytest.raises(EdgelibError, match="unknown device 'tpu'"):
        matching("tpu", names)


def test_amounts_have_units():
    units = {"": 1.0, "ms": 1.0, "s": 1e3}
    assert [amount(text, units, "t", "1s") for text in ("150ms", "0.15 s", " 150", ".15S")] == [150] * 4
