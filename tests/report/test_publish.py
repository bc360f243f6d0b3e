"""Publishing: only what is stale, whole or not at all, and the same bytes every time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from edgelib import source
from edgelib.errors import EdgelibError
from edgelib.ground.paths import find_root
from edgelib.report.notebook import setup
from edgelib.report.publish import (
    Chapter,
    _copy_tables,
    _in_order,
    chapter_names,
    find_chapter,
    fingerprint,
    is_fresh,
    normalised,
    publish,
)

BODY = """\
from pathlib import Path
if False:
    import edgelib.errors
print('n is', n)
Path(FOLDER).mkdir(parents=True, exist_ok=True)
"""
TABLE = "Path(FOLDER, 'counts.csv').write_text(f'n\\n{n}\\n')"


def make_checkout(folder, *cells: str):
    """A checkout with one chapter, "tiny", whose cells follow its parameters."""
    for name in ("notebooks", "edgelib/inputs/scenes_clip", "book/data"):
        (folder / name).mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "edgelib/errors.py", "edgelib/inputs/scenes_clip/weights.bin"):
        (folder / name).write_text("one = 1\n")
    parameters = new_code_cell("n = 1  # count", metadata={"tags": ["parameters"]})
    sources = [source.replace("FOLDER", "'results/tiny'") for source in cells or (BODY, TABLE)]
    notebook = new_notebook(cells=[new_markdown_cell("# Tiny"), parameters, *map(new_code_cell, sources)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "notebooks" / "tiny.ipynb")
    return Chapter("tiny", folder, {"n": 3})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A chapter that was published once; tests restore what they change."""
    chapter = make_checkout(tmp_path_factory.mktemp("published"))
    publish(chapter, progress=False)
    return chapter


def test_a_published_chapter_has_every_output_and_its_table(published):
    notebook = nbformat.read(published.published, as_version=4)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert notebook.cells[3].outputs[0].text == "n is 3\n"
    assert (published.root / "book/data/tiny-counts.csv").read_text() == "n\n3\n"
    assert is_fresh(published)


def test_publishing_again_gives_the_same_bytes(published):
    before = published.published.read_bytes()
    publish(published, progress=False)
    assert published.published.read_bytes() == before


def test_nothing_personal_is_published(published):
    text = published.published.read_text()
    assert str(published.root) not in text
    assert "start_time" not in text
    assert list(published.published.parent.iterdir()) == [published.published]


@pytest.mark.parametrize(
    "name",
    ["edgelib/errors.py", "edgelib/inputs/scenes_clip/weights.bin", "constraints.txt", "book/data/tiny-counts.csv"],
)
def test_a_changed_input_makes_it_stale(published, name):
    file = published.root / name
    before = file.read_bytes()
    for content, fresh in ((b"two = 2\n", False), (before, True)):
        file.write_bytes(content)
        source.code_digest.cache_clear()  # a process reads its code once
        assert is_fresh(published) == fresh


@pytest.mark.parametrize("name", ["edgelib/cli/sweep.py", "edgelib/inputs/other.py", "edgelib/__pycache__/x.pyc"])
def test_what_cannot_change_a_number_does_not(published, name):
    file = published.root / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("anything")
    assert is_fresh(published)


def test_other_parameters_or_cells_make_it_stale(published):
    assert not is_fresh(Chapter("tiny", published.root, {"n": 4}))
    notebook = nbformat.read(published.notebook, as_version=4)
    before = fingerprint(published)
    notebook.cells[2].source += "\n# more"
    nbformat.write(notebook, published.notebook)
    assert fingerprint(published) != before
    notebook.cells[2].source = notebook.cells[2].source.removesuffix("\n# more")
    nbformat.write(notebook, published.notebook)
    assert fingerprint(published) == before


def test_a_model_or_data_named_by_path_is_an_input(tmp_path):
    root = make_checkout(tmp_path / "checkout").root
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "weights.safetensors"
    file.write_text("one")
    chapter = Chapter("tiny", root, {"n": 3, "model": str(file.parent)}, ("model",))
    prints = [fingerprint(chapter)]
    os.utime(file, ns=(1, 1))
    prints.append(fingerprint(chapter))
    file.write_text("another")
    prints.append(fingerprint(chapter))
    file.rename(file.with_name("renamed.safetensors"))
    prints.append(fingerprint(chapter))
    (tmp_path / "mine" / ".lock").touch()
    assert len(set(prints)) == 4 and fingerprint(chapter) == prints[-1]


def test_a_table_named_by_path_counts_by_its_content(tmp_path):
    root = make_checkout(tmp_path / "checkout").root
    (root / "table.csv").write_text("one")
    chapter = Chapter("tiny", root, {"table": "table.csv"}, ("table",))
    before = fingerprint(chapter)
    os.utime(root / "table.csv", ns=(1, 1))
    assert fingerprint(chapter) == before
    (root / "table.csv").write_text("two")
    assert fingerprint(chapter) != before


def test_a_path_that_no_source_names_is_no_input(tmp_path):
    root = make_checkout(tmp_path / "checkout").root
    chapter = Chapter("tiny", root, {"results": str(tmp_path / "out")}, ("model",))
    absent = fingerprint(chapter)
    (tmp_path / "out").write_text("one")
    assert fingerprint(chapter) == absent


def test_each_path_of_a_list_is_an_input(tmp_path):
    root = make_checkout(tmp_path / "checkout").root
    file = tmp_path / "config.json"
    chapter = Chapter("tiny", root, {"architectures": ["clip-vit-base-patch32", str(file)]}, ("architectures",))
    absent = fingerprint(chapter)
    file.write_text("{}")
    assert fingerprint(chapter) != absent


def test_a_path_of_an_input_starts_in_the_checkout_or_at_home(tmp_path, monkeypatch):
    root = make_checkout(tmp_path / "checkout").root
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for folder, name in ((root, "images.npz"), (tmp_path, "~/images.npz")):
        chapter = Chapter("tiny", root, {"dataset": name}, ("dataset",))
        absent = fingerprint(chapter)
        (folder / "images.npz").write_text("one")
        assert fingerprint(chapter) != absent


def test_results_may_lie_in_the_home_of_the_user(tmp_path, monkeypatch):
    root = make_checkout(tmp_path / "checkout").root
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Chapter("tiny", root, {"results": "~/out"}).results == tmp_path / "out" / "tiny"
    assert setup("tiny", "~/out").folder == tmp_path / "out" / "tiny"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("1 / 0", r"stopped at In \[4\] with ZeroDivisionError: division by zero", id="error"),
        pytest.param("import os; os.kill(os.getpid(), 9)", "kernel was killed", id="killed kernel"),
    ],
)
def test_a_failed_run_leaves_the_published_chapter(tmp_path, source, said):
    chapter = make_checkout(tmp_path, "x = 1", source)
    chapter.published.parent.mkdir()
    chapter.published.write_text("the one before")
    with pytest.raises(EdgelibError, match=said) as caught:
        publish(chapter, progress=False)
    assert "edgelib publish tiny" in str(caught.value)
    assert chapter.published.read_text() == "the one before"
    assert [path.name for path in chapter.published.parent.iterdir()] == ["tiny.ipynb"]


def test_tables_of_an_older_version_are_not_published(tmp_path):
    chapter = make_checkout(tmp_path)
    chapter.results.mkdir(parents=True)
    (chapter.results / "dropped.csv").write_text("old\n")
    (tmp_path / "book/data/tiny-dropped.csv").write_text("old\n")
    publish(chapter, progress=False)
    assert [table.name for table in chapter.tables] == ["tiny-counts.csv"]


def test_tables_are_whole_when_copying_them_is_cut_short(tmp_path, monkeypatch):
    chapter = make_checkout(tmp_path)
    chapter.results.mkdir(parents=True)
    for name in ("a.csv", "b.csv"):
        (chapter.results / name).write_text("new\n")
        (tmp_path / "book/data" / f"tiny-{name}").write_text("old\n")
    (tmp_path / "book/data/tiny-dropped.csv").write_text("old\n")

    def torn(source, target):
        Path(target).write_text("ne")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfile", torn)
        _copy_tables(chapter)
    assert {table.name: table.read_text() for table in chapter.tables} == dict.fromkeys(
        ["tiny-a.csv", "tiny-b.csv", "tiny-dropped.csv"], "old\n"
    )
    assert list(_copy_tables(chapter)) == ["tiny-a.csv", "tiny-b.csv"]
    assert sorted(path.name for path in (tmp_path / "book/data").iterdir()) == ["tiny-a.csv", "tiny-b.csv"]


@pytest.mark.parametrize("text", ["", "{", '{"nbformat": 4}'], ids=["empty", "torn", "headless"])
def test_a_broken_published_file_is_stale(tmp_path, text):
    chapter = make_checkout(tmp_path)
    chapter.published.parent.mkdir()
    chapter.published.write_text(text)
    assert not is_fresh(chapter)


def test_streams_are_joined_and_times_dropped():
    out = [new_output("stream", name="stdout", text=text) for text in ("a", "b")]
    cell = new_code_cell("x", outputs=[*out, new_output("stream", name="stderr", text="c")])
    cell.metadata = {"papermill": {"duration": 1.0}, "tags": ["t"]}
    notebook = normalised(new_notebook(cells=[cell], metadata={"papermill": {"start_time": "now"}}))
    assert [(output.name, output.text) for output in notebook.cells[0].outputs] == [("stdout", "ab"), ("stderr", "c")]
    assert notebook.cells[0].metadata == {"tags": ["t"]}
    assert set(notebook.metadata) == {"language_info"}


def test_tables_of_a_chapter_that_it_reads_are_inputs(tmp_path):
    chapter = make_checkout(tmp_path)
    reading = find_chapter("tiny", {"n": 3}, tmp_path, reads=("other",))
    before = fingerprint(reading)
    (tmp_path / "book/data/other-counts.csv").write_text("n\n1\n")
    assert fingerprint(reading) != before and fingerprint(chapter) == fingerprint(Chapter("tiny", tmp_path, {"n": 3}))


def test_a_chapter_is_published_after_those_that_it_reads():
    names = {"a": ("c",), "b": (), "c": ("b", "elsewhere")}
    order = _in_order([Chapter(name, Path(), {}, reads=reads) for name, reads in names.items()])
    assert [chapter.name for chapter in order] == ["b", "c", "a"]


def test_an_unknown_chapter_lists_the_known_ones(tmp_path):
    make_checkout(tmp_path)
    assert chapter_names(tmp_path) == ["tiny"]
    with pytest.raises(EdgelibError, match="unknown chapter 'tinny'.*tiny"):
        find_chapter("tinny", {}, tmp_path)


def test_the_checkout_is_found_from_below(tmp_path):
    make_checkout(tmp_path)
    assert find_root(tmp_path / "book" / "data") == tmp_path
