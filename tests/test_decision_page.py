"""The decision page compares as the library does, says it in the same words, and keeps its question in the address."""

from __future__ import annotations

import importlib.util
import itertools
import math
from functools import cache

import numpy as np
import pytest
from browser import start
from helpers import ROOT
from scipy import stats
from small_record import GIB, options_of, outcomes_of, record_of

from edgelib.decide.decision import ENDS, ORDERS, decide
from edgelib.decide.record import Caveat, DeviceOptions, Need, Option, Writer, read_record
from edgelib.errors import EdgelibError
from edgelib.report.claims.choices import caveat_text, certainty_text, choice_text, open_text

TRUTH = {"fp16": 0.9, "b": 0.9, "c": 0.7, "d": 0.88, "e": 0.9, "<i>f</i>": 0.86}
COSTS = {k: (4.0 / (i + 1), 40.0 / (1 + i // 2) + 0.1 * i) for i, k in enumerate(TRUTH)}
PUBLISHED = ROOT / "book" / "data" / "pareto-decision.json"


@pytest.fixture(scope="module")
def page():
    """The extension of the book that makes the page."""
    spec = importlib.util.spec_from_file_location("decision_page", ROOT / "book" / "_ext" / "decision_page.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@cache
def made_record():
    """Six configurations on four devices: unknown power, unknown memory, kernels for half of them, room for none."""
    outcomes = outcomes_of(TRUTH, 300, 1, alike=1.0)
    outcomes["fog"] = outcomes_of({k: p - 0.2 for k, p in TRUTH.items()}, 300, 2, alike=0.97)["clean"]
    record = record_of(outcomes, options_of(COSTS, spread=0.1))
    [board] = record.devices
    half = [
        o if i % 2 else Option(config=o.config, memory=o.memory, reason="no <b>kernel</b>")
        for i, o in enumerate(board.options)
    ]
    devices = [
        board.model_copy(update={"memory_bytes": 4 * GIB}),
        DeviceOptions(key="phone", name="Phone", memory_bytes=2 * GIB, options=half),
        DeviceOptions(key="server", name="Server", power_w=300, options=options_of(COSTS, spread=0.0)),
        DeviceOptions(key="watch", name="Watch", memory_bytes=GIB / 8, power_w=1, options=board.options),
    ]
    caveats = [
        Caveat(kind="twin", where="weight:16", drop=0.4525, chapter="vlm_accuracy"),
        Caveat(kind="mix", where="dark images", drop=0.2, value=0.7, instead_of=0.9, chapter="calibration_sensitivity"),
    ]
    configs = [c.model_copy(update={"caveats": caveats}) for c in record.configs]
    needs = [Need(config=k, memory={"cache": 3 * GIB}, runtime="llama.cpp", command="llama -m x") for k in TRUTH]
    writer = Writer(model="writer", context=1024, devices={d.key: needs for d in devices})
    more = {"devices": devices, "configs": configs, "writer": writer, "not_available": ["twins: not run"]}
    return record.model_copy(update=more)


RECORDS = ["made", pytest.param("published", marks=pytest.mark.skipif(not PUBLISHED.is_file(), reason="no record"))]


@pytest.fixture(scope="module", params=RECORDS)
def record(request):
    return made_record() if request.param == "made" else read_record(PUBLISHED)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        window = start(tmp_path_factory.mktemp("profile"))
    except LookupError as missing:
        pytest.skip(f"{missing}; on Debian: apt-get install -y chromium chromium-driver")
    yield window
    window.quit()


HTML = (
    '<!doctype html><meta charset="utf-8"><title>p</title><div id="decision"></div><script src="decision.js"></script>'
)


def opener(browser, page, record, folder):
    """A function that opens the page of a record at a question, and returns what runs a script there."""
    (folder / "decision.js").write_text(page.script(record))
    (folder / "page.html").write_text(HTML)

    def visit(question=""):
        browser.get("about:blank")
        browser.get((folder / "page.html").as_uri() + question)
        return browser.execute_script

    return visit


@pytest.fixture
def opened(browser, record, page, tmp_path):
    return opener(browser, page, record, tmp_path)


def questions(record) -> list[dict]:
    """A grid over all that can be asked, thinned so that every pair of values of two neighbours still occurs."""
    corruption = [None, record.criteria[-1]]
    grid = itertools.product(
        [d.key for d in record.devices][:6],
        [None, 1.5, 3.9, 16.0],
        [None, 8.0, 30.0, 150.0],
        [0.002, 0.01, 0.05, 0.2],
        ORDERS,
    )
    return [
        dict(
            device=device,
            memory=None if memory is None else memory * GIB,
            latency_ms=latency,
            margin=margin,
            order=order,
            corruption=corruption[i % 2],
            end=ENDS[i // 2 % 2],
        )
        for i, (device, memory, latency, margin, order) in enumerate(grid)
        if i % 11 == 0
    ]


def answered(record, asked) -> dict:
    try:
        found = decide(record, **asked)
    except EdgelibError as error:
        return {"error": str(error)}
    lists = {name: list(getattr(found, name)) for name in ("fits", "kept", "criteria")}
    words = {"choice": choice_text(found, {c.key: c.label for c in record.configs})}
    words["sure"] = certainty_text(found) if found.tied else ""
    numbers = [[c.config, c.cost, c.p_within, c.shown, c.low, c.high, c.memory, c.command] for c in found.tied]
    why = {"open": list(found.open.items()), "out": list(found.out.items())}
    return lists | words | {"shown": found.shown, "tied": numbers, "p": [c.p_as_good for c in found.tied]} | why


ANSWER = """
  const {record, decide, choiceText, certaintyText} = edgelibDecision;
  return arguments[0].map(asked => {
    let f;
    try { f = decide(record, asked); } catch (error) { return {error: error.message}; }
    const tied = f.tied.map(c => [c.config, c.cost, c.p_within, c.shown, c.low, c.high, c.total, c.command]);
    return {fits: f.fits, kept: f.kept, criteria: f.criteria, choice: choiceText(record, f), shown: f.shown, tied,
      sure: f.tied.length ? certaintyText(f) : "", p: f.tied.map(c => c.p_as_good),
      open: Object.entries(f.open), out: Object.entries(f.out)};
  });
"""


@pytest.mark.book
def test_the_page_and_the_library_give_the_same_answer(record, opened):
    asked = questions(record)
    wanted = [answered(record, question) for question in asked]
    seen = opened()(ANSWER, asked)
    assert len(asked) > 30
    for question, page, library in zip(asked, seen, wanted, strict=True):
        chances = [answer.pop("p", []) for answer in (page, library)]
        assert page == {k: [list(v) for v in x] if k in ("open", "out") else x for k, x in library.items()}, question
        assert chances[0] == pytest.approx(chances[1], abs=1e-12)
    assert {len(answer.get("tied", ())) for answer in seen} >= {0, 1, 2}, "the grid has nothing to compare"


@pytest.mark.book
def test_numbers_and_words_are_printed_as_the_library_prints_them(record, opened):
    rng = np.random.default_rng(0)
    values = [*(rng.standard_normal(150) * 10.0 ** rng.integers(-3, 4, 150)), *(np.arange(-40, 40) / 16), 0.0, -0.0]
    values = [float(value) for value in values]
    run = opened()
    for name, form in (("fixed", ".{}f"), ("signed", "+.{}f"), ("general", ".{}g")):
        for digits in (0, 1, 2) if name != "general" else (3, 6):
            said = run(f"return arguments[0].map(x => edgelibDecision.{name}(x, {digits}))", values)
            minus = run("return Object.is(arguments[0], -0)", -0.0)  # the driver may drop the sign of a zero
            wanted = [format(v if v or minus else 0.0, form.format(digits)) for v in values]
            assert said == wanted
    counts = [1, 9, 99, 487, 1234, 13012, 99950]
    assert run("return arguments[0].map(edgelibDecision.openText)", counts) == [open_text(n) for n in counts]
    caveats = [caveat for config in record.configs for caveat in config.caveats]
    said = run("return edgelibDecision.record.configs.flatMap(c => c.caveats.map(edgelibDecision.caveatText))")
    assert said == [caveat_text(caveat) for caveat in caveats]
    points = np.linspace(-9, 9, 181).tolist()
    tails = run("return arguments[0].map(edgelibDecision.normal)", points)
    assert tails == pytest.approx(stats.norm.cdf(points), abs=1e-14)


@pytest.fixture
def made(browser, page, tmp_path):
    """The made record, and the page of it at a question."""
    known, visit = made_record(), opener(browser, page, made_record(), tmp_path)
    return lambda question="": (known, visit(question))


CARDS = "return [...document.querySelectorAll('[data-config]')].map(card => card.dataset.config)"
SAID = "return document.getElementById('decision-said').textContent"


@pytest.mark.book
def test_an_address_asks_and_a_change_changes_the_address(made):
    known, run = made("#memory=3GB&device=board&margin=5&corruption=fog&order=bytes")
    limits = dict(memory=3 * GIB, margin=0.05, corruption="fog", order="bytes")
    assert run(CARDS) == [choice.config for choice in decide(known, "board", **limits).tied]
    values = run("return [...document.querySelectorAll('#decision-form [name]')].map(f => f.value).join()")
    assert values == "board,3,,5,bytes,fog,"
    run("""
      const field = document.querySelector('[name=latency]');
      field.value = '30';
      field.dispatchEvent(new Event('input', {bubbles: true}));
    """)
    assert run("return location.hash") == "#device=board&memory=3GB&latency=30ms&margin=5&order=bytes&corruption=fog"
    found = decide(known, "board", latency_ms=30, **limits)
    assert run(CARDS) == [choice.config for choice in found.tied]
    asked = "--device board --memory 3GB --latency 30ms --margin 5 --order bytes --corruption fog"
    assert run("return document.body.textContent").count(f"edgelib choose {asked}") == 1


@pytest.mark.book
def test_every_configuration_is_recommended_or_has_a_reason(made):
    known, run = made("#device=board")
    rows = run("return [...document.querySelectorAll('#decision-shown tbody tr')].map(r => r.textContent)")
    assert len(run(CARDS)) + len(rows) == len(known.configs)
    _, run = made("#memory=3.9GB&config=d")
    rows = run("return [...document.querySelectorAll('#decision-shown tbody tr')].map(r => r.cells.length)")
    assert rows == [6] * len(known.devices)


@pytest.mark.book
def test_text_of_a_record_is_text(made):
    known, run = made("#device=phone&margin=40")
    assert "no <b>kernel</b>" in run("return document.getElementById('decision').textContent")
    assert "<I>F</I>" in run("return document.getElementById('decision').textContent")
    assert run("return document.querySelectorAll('#decision b, #decision i').length") == 0


WRONG = {
    "memory": ("#device=board&memory=-4GB", 'memory must be a number above 0, got "-4".'),
    "margin": ("#device=board&margin=", 'margin must be a number above 0, got "".'),
    "device": ("#device=tpu", 'unknown device "tpu"; choose from board, phone, server, watch.'),
    "order": ("#order=price", 'unknown order "price"; choose from speed, bytes, energy.'),
    "corruption": ("#corruption=snow", 'unknown corruption "snow"; choose from fog.'),
    "config": ("#config=int1", 'unknown configuration "int1"; choose from'),
    "energy": ("#device=phone&order=energy", "Phone has no power_w, so energy is not known there"),
}


@pytest.mark.book
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_and_nothing_is_recommended(made, case):
    question, wanted = WRONG[case]
    _, run = made(question)
    assert wanted in run(SAID) and run(CARDS) == []


@pytest.mark.book
def test_the_page_is_reached_by_keys_and_read_aloud(browser, made):
    from selenium.webdriver.common.keys import Keys

    _, run = made("#device=board")
    unnamed = "return [...document.querySelectorAll('select, input')].filter(f => !f.labels.length).length"
    assert run(unnamed) == 0
    assert run("return document.getElementById('decision-said').getAttribute('aria-live')") == "polite"
    levels = run("return [...document.querySelectorAll('#decision h2, #decision h3')].map(h => +h.tagName[1])")
    assert levels[0] == 2 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    names = []
    for _ in range(14):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        names.append(run("return document.activeElement.name || document.activeElement.textContent"))
    links = ["A 4 GB board", "Ready for fog", "Every device"]
    assert names[:10] == [*links, "device", "memory", "latency", "margin", "order", "corruption", "config"]
    browser.find_element("name", "memory").send_keys("0.1")
    assert "nothing fits" in run(SAID)


def test_the_page_gets_sums_that_are_exact_and_no_empty_parts(page):
    known = made_record()
    facts = page.facts(known)
    for device, lean in zip(known.devices, facts["devices"], strict=True):
        for option, shown in zip(device.options, lean["options"], strict=True):
            assert option.config == shown["config"] and (shown.get("total", option.total) == option.total)
            assert ("total" in shown) == bool(option.runtime) and 0 not in shown.get("memory", {}).values()
    assert facts["writer"]["devices"]["board"][0]["total"] == math.fsum([3 * GIB])
    assert facts["draws"] == known.draws


def test_a_book_without_a_record_says_so(page, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "RECORD", tmp_path / "none.json")
    assert page.published() is None and page.MISSING.count(".") == 1
