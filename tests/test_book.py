"""The book builds without a warning, without torch, and its pages are right in a real browser, without a network."""

from __future__ import annotations

import csv
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import start
from helpers import ROOT

from edgelib.chapters.table import CHAPTERS

PHONE, DESKTOP = 390, 1280
# The size of a screenshot's viewport is the reader's; the heights are typical.
HEIGHTS = {PHONE: 844, DESKTOP: 900}
PATIENCE = 600  # seconds: a page that is not ready by then never is, on any machine

pytestmark = pytest.mark.book


def pages() -> list[str]:
    """Return every page of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The book, built with warnings as errors where the model libraries cannot be imported."""
    folder = tmp_path_factory.mktemp("book")
    blocked = folder / "blocked"
    for name in ("torch", "torchvision", "transformers", "timm", "datasets", "pandas"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not needed to build the book')")
    for name in ("book", "edgelib", "_config.yml", "_toc.yml"):
        source = ROOT / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("_build", "__pycache__", ".*")
            shutil.copytree(source, folder / name, symlinks=True, ignore=skipped)
        else:
            shutil.copyfile(source, folder / name)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "-W", "-n", "--keep-going"]
    environment = {**os.environ, "PYTHONPATH": str(blocked)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "book" / "_build" / "html"


def test_every_page_is_there(html):
    for page in pages():
        assert (html / f"{page}.html").stat().st_size > 1000


def test_no_page_loads_anything_from_elsewhere(html):
    for page in html.rglob("*.html"):
        tag = r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="
        loads = re.findall(tag + r"[\"']((?:https?:)?//[^\"']+)", page.read_text())
        assert not loads, f"{page.name} loads {loads}"


def test_a_narrow_screen_gets_narrow_drawings(html):
    for page in (html / "chapters").glob("*.html"):
        text = page.read_text()
        narrow = re.findall(r'<source media="[^"]+" srcset="\.\./([^"]+)"><img', text)
        assert len(narrow) == len(re.findall(r'src="\.\./_images/[0-9a-f]{64}\.svg(?:#dark)?"', text)), page.name
        assert all((html / name.removesuffix("#dark")).is_file() for name in narrow)


def test_no_cell_failed_or_is_missing_its_outputs(html):
    for page in (html / "chapters").glob("*.html"):
        assert "Traceback (most recent call last)" not in page.read_text(), page.name


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that cannot reach a network; where there is none, only the tests that need it are skipped."""
    try:
        window = start(tmp_path_factory.mktemp("profile"))
    except LookupError as missing:
        pytest.skip(f"{missing}; on Debian: apt-get install -y chromium chromium-driver")
    yield window
    window.quit()


def visit(browser, html: Path, page: str, width: int, mode: str) -> None:
    """Open a page at a width in light or dark mode, and wait until its images and formulas are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": HEIGHTS[width], "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get((html / f"{page}.html").as_uri())
    ready = """
      const formulas = [...document.querySelectorAll('.math')].every(f => f.querySelector('mjx-container'));
      return document.readyState === 'complete' && formulas && [...document.images].every(i => i.complete);
    """
    WebDriverWait(browser, PATIENCE).until(lambda window: window.execute_script(ready))


LOOKS = [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")]


@pytest.fixture(params=LOOKS, ids=["desktop", "dark", "phone"])
def look(request) -> tuple[int, str]:
    return request.param


@pytest.mark.parametrize("page", pages())
def test_a_page_is_right(browser, html, page, look):
    width, mode = look
    visit(browser, html, page, width, mode)
    assert browser.execute_script("return document.documentElement.dataset.theme") == mode
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    traffic = "".join(entry["message"] for entry in browser.get_log("performance"))
    asked = re.findall(r'"url":"(https?://[^"\\]+)', traffic)
    assert not asked, f"asks the network for {asked}"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "scrolls sideways"
    assert not browser.execute_script(SPILLS, width), "content is wider than the page"
    broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
    assert not browser.execute_script(broken)
    silent = "return [...document.querySelectorAll('article img')].filter(i => !i.alt.trim()).map(i => i.src)"
    assert not browser.execute_script(silent), "figures without alternative text"
    assert not browser.execute_script(WRAPPED), "an interval is broken over two lines"
    assert not browser.execute_script(WALLS), "a list of sentences that say the same of many things; make it a table"
    figures = [] if mode == "dark" else browser.execute_script(FIGURES)
    assert not [fault for address, wide in figures for fault in faults_of(browser, address, wide)]
    if look == LOOKS[1 + pages().index(page) % 2]:  # one look a page, in turns: it takes its time
        assert not barriers(browser)


# Cells that hold a number with its interval, and take more than one line.
WRAPPED = r"""
  const lines = cell => {
    const tops = new Set(), texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const range = document.createRange();
      range.selectNodeContents(texts.currentNode);
      for (const box of range.getClientRects()) if (box.width) tops.add(Math.round(box.top));
    }
    return tops.size;
  };
  return [...document.querySelectorAll('article tbody td')]
    .filter(cell => /^\S+ \([^()]* to [^()]*\)$/.test(cell.textContent.trim()) && lines(cell) > 1)
    .map(cell => cell.textContent).slice(0, 3);
"""
# Lists that computed cells show in which more than four sentences share most of their words.
WALLS = r"""
  const words = item => new Set(item.textContent.toLowerCase().split(/[^a-z]+/).filter(word => word.length > 2));
  const alike = (a, b) => [...a].filter(word => b.has(word)).length >= 0.6 * new Set([...a, ...b]).size;
  return [...document.querySelectorAll('.cell_output ul')].filter(list => {
    const said = [...list.children].map(words);
    return said.some(one => said.filter(other => alike(one, other)).length > 4);
  }).map(list => list.textContent.slice(0, 100));
"""
FIGURES = """
  return [...document.querySelectorAll('article img')].filter(i => i.currentSrc.endsWith('.svg') && i.clientWidth)
    .map(i => [i.currentSrc, i.clientWidth]);
"""
# Pairs of level texts of a drawing that cover each other.
COVERED = """
  const place = document.createElement('div');
  place.innerHTML = arguments[0];
  document.body.append(place);
  const level = [...place.querySelectorAll('g[id^=text_]')].filter(g => !g.querySelector('[transform*=rotate]'));
  const boxes = level.map(g => g.getBoundingClientRect());
  const name = g => [...g.childNodes].find(n => n.nodeType === 8)?.data.trim();
  const found = [];
  boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 1) found.push(`${name(level[j])} and ${name(level[i])}`);
  }));
  place.remove();
  return found;
"""
LETTER, ENTRIES = 9, 8  # pixels of the smallest letter; entries that a legend may have


def faults_of(browser, address: str, wide: int) -> list[str]:
    """What a reader of a drawing would stumble over, where it is shown so many pixels wide."""
    path = Path(unquote(urlsplit(address).path))
    drawing = path.read_text(encoding="utf-8")
    points = float(re.search(r'viewBox="0 0 ([\d.]+) ', drawing)[1])
    letters = [100 * float(size) * wide / points for size in re.findall(r"scale\(([\d.]+) -\1\)", drawing)]
    found = [f"letters of {min(letters):.1f} pixels"] if letters and min(letters) < LETTER else []
    for _, legend in re.findall(r'^( *)<g id="legend_\d+">(.*?)^\1</g>', drawing, re.S | re.M):
        if (entries := legend.count('id="text_')) > ENTRIES:
            found.append(f"a legend of {entries} entries")
    covered = browser.execute_script(COVERED, drawing[drawing.index("<svg") :])
    return [f"{path.name}: {fault}" for fault in [*found, *covered]]


# Rows and entries that repeat are looked at in samples.
SAMPLE = """
  document.querySelectorAll('tbody tr:nth-child(n+5), dl.py:nth-of-type(n+5), .genindextable li:nth-child(n+5)')
    .forEach(e => e.remove());
"""


def barriers(browser) -> list[str]:
    """What axe finds on the page that keeps somebody out: serious and critical faults, with the first place of each."""
    from axe_core_python.selenium import Axe

    browser.execute_script(SAMPLE)
    browser.set_script_timeout(PATIENCE)
    found = Axe().run(browser, options={"resultTypes": ["violations"]})["violations"]
    worst = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [f"{fault['id']}: {fault['nodes'][0]['html'][:120]}" for fault in worst]


# What sticks out of the page and cannot be scrolled to inside a box of its own.
SPILLS = """
  const inside = e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true; return false; };
  return [...document.querySelectorAll('article *')]
    .filter(e => e.getBoundingClientRect().right > arguments[0] + 1 && e.offsetParent && !inside(e))
    .map(e => e.outerHTML.slice(0, 80));
"""


def test_dark_figures_are_light_ink_and_pictures_keep_their_colours(browser, html):
    photos = 0
    for page in (page for page in pages() if page.startswith("chapters/")):
        visit(browser, html, page, DESKTOP, "dark")
        looks = browser.execute_script("""
          return [...document.querySelectorAll('div.cell_output img')].map(i => [
            i.classList.contains('photo'), i.classList.contains('only-light'),
            getComputedStyle(i).filter, getComputedStyle(i).backgroundColor]);
        """)
        for photo, hidden, ink, ground in looks:
            assert hidden or (ink, ground) == ("none" if photo else "invert(1) hue-rotate(180deg)", "rgba(0, 0, 0, 0)")
        photos += sum(photo and not hidden for photo, hidden, *_ in looks)
    assert photos


def test_formulas_are_drawn(browser, html):
    visit(browser, html, "reference/methods", DESKTOP, "light")
    assert browser.execute_script("return document.querySelectorAll('mjx-container svg').length") > 5
    assert not browser.execute_script("return document.querySelectorAll('[data-mjx-error]').length")


def test_the_search_finds_a_page(browser, html):
    from selenium.webdriver.support.ui import WebDriverWait

    visit(browser, html, "search", DESKTOP, "light")
    browser.get((html / "search.html").as_uri() + "?q=calibration")
    found = "return document.querySelectorAll('#search-results li').length"
    assert WebDriverWait(browser, PATIENCE).until(lambda window: window.execute_script(found)) > 0


def test_there_is_one_search_button(browser, html):
    visit(browser, html, "index", DESKTOP, "light")
    buttons = "[...document.querySelectorAll('.search-button-field, .search-button')]"
    assert browser.execute_script(f"return {buttons}.filter(e => e.offsetParent).length") == 1


def test_the_front_page_is_light(html):
    page = (html / "index.html").read_text()
    loaded = set(re.findall(r'(?:src|href)="((?:_static|searchindex)[^"?]*)', page))
    assert not {name for name in loaded if name.endswith(("tex-svg.js", "vega.js"))}
    sent = sum(len(gzip.compress((html / name).read_bytes())) for name in loaded) + len(gzip.compress(page.encode()))
    assert sent < 300_000  # bytes, as servers compress them


def test_the_search_does_not_index_code(html):
    index = (html / "searchindex.js").read_text()
    assert re.search(r"\bbootstrap\b", index) and not re.search(r"\b(subplot|plt)\b", index)


def test_a_table_sorts_filters_and_is_saved(browser, html):
    visit(browser, html, "chapters/robustness_gap", DESKTOP, "light")
    state = """
      const table = document.getElementById('tab-costs');
      const bar = (table.closest('.pst-scrollable-table-container') || table).previousElementSibling;
      const field = bar.querySelector('input');
      field.value = 'fog FP32';
      field.dispatchEvent(new Event('input'));
      const shown = [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.textContent);
      field.value = '';
      field.dispatchEvent(new Event('input'));
      const title = table.tHead.rows[0].cells[2];
      title.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
      const values = [...table.tBodies[0].rows].map(r => parseFloat(r.cells[2].textContent));
      return [shown, values, title.getAttribute('aria-sort'), bar.querySelector('button').textContent];
    """
    shown, values, order, button = browser.execute_script(state)
    assert len(shown) == 1 and "fog" in shown[0]
    assert values == sorted(values) and len(values) > 8 and order == "ascending" and button == "CSV"


def test_the_explorer_has_its_menu_above_its_intervals_and_remembers_the_device(browser, html):
    from selenium.webdriver.support.ui import WebDriverWait

    if 'class="explorer"' not in (html / "chapters/pareto.html").read_text():
        pytest.skip("the chapter pareto has not published its chart")
    state = """
      const menu = document.querySelector('.explorer select'), chart = document.querySelector('.explorer svg');
      if (!menu || !chart) return null;
      const legend = [...document.querySelectorAll('.explorer-legend button svg :is(path, circle)')]
        .map(p => p.getAttribute('fill'));
      if (!legend.length) return null;
      const points = [...chart.querySelectorAll('.mark-symbol.role-mark path')].length;
      return [menu.getBoundingClientRect().bottom <= chart.getBoundingClientRect().top, legend, menu.value, points,
        chart.querySelectorAll('.mark-rule.role-mark line').length, [...menu.options].map(o => o.value)];
    """
    seen = []
    for _ in range(2):
        visit(browser, html, "chapters/pareto", DESKTOP, "dark")
        seen.append(WebDriverWait(browser, PATIENCE).until(lambda window: window.execute_script(state)))
        other = [device for device in seen[0][5] if device != seen[0][2]][0]
        browser.execute_script(CHOOSE, other)
        WebDriverWait(browser, PATIENCE).until(lambda window, other=other: window.execute_script(KEPT, other))
    above, colours, device, points, bars, devices = seen[0]
    assert above and colours and points and bars >= 2 * points and device in devices
    assert seen[1][1] == colours and seen[1][2] == other
    most, pressed = browser.execute_script(KEEP)
    assert most <= ENTRIES and pressed == ["true"]
    WebDriverWait(browser, PATIENCE).until(lambda window: window.execute_script(FAINT))
    browser.execute_script("localStorage.clear()")


# Presses the first name of the legend: how long the longest legend is, and what is pressed then.
KEEP = """
  const lists = [...document.querySelectorAll('.explorer-legend')];
  const keys = lists.flatMap(list => [...list.querySelectorAll('button')]);
  keys[0].click();
  return [Math.max(...lists.map(list => list.querySelectorAll('button').length)),
    keys.map(key => key.getAttribute('aria-pressed')).filter(value => value !== 'false')];
"""
FAINT = """
  return [...document.querySelectorAll('.explorer .mark-symbol.role-mark path')]
    .some(mark => mark.getAttribute('opacity') < 1);
"""
KEPT = "return localStorage.getItem('edgelib-device') === arguments[0]"
CHOOSE = """
  const menu = document.querySelector('.explorer select');
  menu.value = arguments[0];
  menu.dispatchEvent(new Event('change'));
"""

# Questions that people come with, and what they click on from the front page.
CLICKS = {
    "a board of 4 GB": ["Which one fits my board?", "A 4 GB board"],
    "16 GB with FP8": ["Which one fits my board?", "16 GB with FP8"],
    "what fog costs": ["What does fog cost?"],
    "an FP8 cache": ["Is an FP8 cache safe?"],
    "my own model": ["How do I run it on my model?"],
}
FOLLOW = """
  const card = [...document.querySelectorAll('.sd-card')]
    .find(c => c.querySelector('.sd-card-title')?.textContent.trim() === arguments[0]);
  const link = card ? card.querySelector('a') : [...document.querySelectorAll('article a')]
    .find(a => a.textContent.trim() === arguments[0]);
  link.click();
"""


@pytest.fixture
def ask(browser, html):
    """A function that clicks its way to the answer of a question and returns what runs a script there."""
    from selenium.webdriver.support.ui import WebDriverWait

    def clicked(question: str):
        assert len(CLICKS[question]) <= 3
        visit(browser, html, "index", PHONE, "light")
        for words in CLICKS[question]:
            here = browser.current_url
            browser.execute_script(FOLLOW, words)
            WebDriverWait(browser, PATIENCE).until(
                lambda w, here=here: (
                    w.current_url != here and w.execute_script("return document.readyState") == "complete"
                )
            )
        return browser.execute_script

    return clicked


@pytest.fixture(scope="module")
def record():
    from edgelib.decide.record import read_record

    path = ROOT / "book" / "data" / "pareto-decision.json"
    if not path.is_file():
        pytest.skip("the chapter pareto has not published its record")
    return read_record(path)


ANSWER = "return document.querySelector('.admonition.answer').textContent"


def rows_of(name: str) -> list[dict[str, str]]:
    with (ROOT / "book" / "data" / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_what_to_ship_on_a_board_of_4_gb_is_two_clicks_away(ask, record):
    from edgelib.decide.decision import decide

    run = ask("a board of 4 GB")
    device = next(d for d in record.devices if d.memory_bytes == 4 * 2**30)
    cards = run("""
      return [...document.querySelectorAll('[data-config]')].map(card =>
        [card.dataset.config, card.querySelector('h3').textContent, card.querySelector('dd').textContent]);
    """)
    assert [key for key, *_ in cards] == [c.config for c in decide(record, device.key, memory=4 * 2**30).tied]
    table = {row["Configuration"]: row for row in rows_of("pareto-memory.csv") if row["Device"] == device.key}
    for _, label, memory in cards:
        assert memory.startswith(f"{float(table[label]['In all']) / 1024:.2f} of 4 GiB")
    assert "projected to take" in run("return document.getElementById('decision-said').textContent")


def test_what_16_gb_with_fp8_ship_is_two_clicks_away(ask, record):
    from edgelib.decide.decision import decide

    run = ask("16 GB with FP8")
    said = run("return document.getElementById('decision-said').textContent")
    boards = [d for d in record.devices if d.memory_bytes == 16 * 2**30]
    able = [d for d in boards if any(o.config == "fp8" and not o.reason for o in d.options)]
    if not able:  # no board of that size is known to run it: every device says what becomes of it
        fitting = [d.name for d in record.devices if "fp8" in decide(record, d.key, memory=16 * 2**30).fits]
        assert f"runs and fits on {', '.join(fitting) or 'none of them'}" in said
        return
    found = decide(record, able[0].key)
    assert said.startswith(f"{able[0].name}: ship") and "FP8 W8A8: " in said
    cards = run("return [...document.querySelectorAll('.decision-choice')].map(c => c.textContent)")
    scores = next(c for c in record.configs if c.key == "fp8").accuracy["clean"]
    told = f"{100 * scores.value:.1f} % ({100 * scores.low:.1f} to {100 * scores.high:.1f})"
    assert len(cards) == len(found.tied) + ("fp8" not in {choice.config for choice in found.tied})
    assert any(told in card and "GiB" in card for card in cards)


def test_what_fog_costs_is_one_click_away(ask):
    run = ask("what fog costs")
    shown = run("""
      return [...document.querySelectorAll('#tab-costs tbody tr')].map(r => [...r.cells].map(c => c.textContent))
        .filter(r => r[0] === 'fog').flatMap(r => r.slice(2).map(parseFloat));
    """)
    rows = [row for row in rows_of("robustness_gap-costs.csv") if row["corruption"] == "fog"]
    wanted = sorted(100 * float(row["cost"]) for row in rows)
    assert len(shown) >= 3 and sorted(shown) == pytest.approx(wanted, abs=0.051)
    own = [row for row in rows if row["config"] == rows[0]["config"]]
    said = run(ANSWER)
    points = [f"{100 * float(row['cost']):.0f}" for row in own]
    assert ", ".join(points[:-1]) + f" and {points[-1]} points of accuracy at severity" in said
    assert f"{100 * float(own[-1]['cost']):.1f} points" in said


def test_whether_an_fp8_cache_is_safe_is_one_click_away(ask):
    run = ask("an FP8 cache")
    said, own = run(ANSWER), [row for row in rows_of("fp8_kv_ablation-recovery.csv") if row["cache"] == "e4m3-amax"]
    plain = next(row for row in own if row["twin"] == "plain")
    assert f"{100 * float(plain['effect']):+.1f} points" in said and "Do this" in said
    verdict = "is safe on this model as it is" if plain["non_inferior"] == "True" else "is safe is not shown"
    assert verdict in said and said.count("FP8 cache") >= 1
    for row in own:
        if row["non_inferior"] == "False":  # the strength of the twin that it is not shown to be safe with
            assert row["twin"].partition(":")[2] in said


def test_how_to_run_it_on_ones_own_model_is_one_click_away(ask):
    said = ask("my own model")("return document.querySelector('article').textContent")
    assert "edgelib check" in said and "make book PARAMS=" in said
    page = (ROOT / "book" / "reference" / "your_own_model.md").read_text(encoding="utf-8")
    files = re.findall(r"```yaml\n# params/[\w-]+/(\w+)\.yaml\n(.*?)```", page, re.DOTALL)
    for chapter, block in files:
        assert set(yaml.safe_load(block)) <= set(CHAPTERS[chapter].model_fields), chapter
    commands = set(re.findall(r"^edgelib ([a-z-]+)", page, re.MULTILINE))
    assert files and commands and all((ROOT / "edgelib" / "cli" / f"{name}.py").is_file() for name in commands)
