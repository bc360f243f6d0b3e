"""Execute chapters into the book: only what is stale, atomically, and with the same bytes every time.

A chapter is stale when its notebook, its parameters, the models and data they name by path, the modules it imports, the
library's data and embedded models, the pinned versions, tables of other chapters that it reads or one of its own differ
from what the published copy was made with. A run that dies leaves the published copy as it was; the next run takes the
grid cells that were finished from the results store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from edgelib.errors import EdgelibError
from edgelib.ground.paths import find_root, whole_file
from edgelib.source import code_digest, files_behind, imported_names

_SHORT = 1 << 20  # bytes of a named file that is read to tell its state, such as a table
SAVED = (".csv", ".svg", ".json")  # what a chapter saves for the book: tables behind figures, figures, a decision
KEPT_METADATA = frozenset({"kernelspec", "language_info"})


@dataclass(frozen=True)
class Chapter:
    """One chapter of a checkout: its notebook, its parameters, and where its published form goes.

    results is the folder named by the parameter `results`, in which the chapter writes its tables. sources: the
    parameters that name files or folders, as `Parameters.sources` says. reads: the chapters whose published tables it
    reads, as `Parameters.reads` says.
    """

    name: str
    root: Path
    parameters: dict[str, Any]
    sources: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def notebook(self) -> Path:
        return self.root / "notebooks" / f"{self.name}.ipynb"

    @property
    def published(self) -> Path:
        return self.root / "book" / "chapters" / f"{self.name}.ipynb"

    @property
    def results(self) -> Path:
        return self.root / os.path.expanduser(self.parameters.get("results", "results")) / self.name

    @property
    def tables(self) -> list[Path]:
        """The published tables and saved figures of this chapter: book/data/<chapter>-<name>.csv and .svg."""
        return [p for p in sorted((self.root / "book" / "data").glob(f"{self.name}-*")) if p.suffix in SAVED]


def chapter_names(root: Path | None = None) -> list[str]:
    """Return the chapters of the checkout: the stems of notebooks/*.ipynb, sorted."""
    return sorted(path.stem for path in ((root or find_root()) / "notebooks").glob("*.ipynb"))


def find_chapter(
    name: str,
    parameters: dict[str, Any],
    root: Path | None = None,
    sources: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
) -> Chapter:
    """Return the chapter of that name; raises EdgelibError naming the chapters there are."""
    root = root or find_root()
    names = chapter_names(root)
    if name not in names:
        known = ", ".join(names) or f"no notebooks in {root / 'notebooks'}"
        raise EdgelibError(f"unknown chapter {name!r}; choose from {known}")
    return Chapter(name, root, parameters, sources, reads)


def fingerprint(chapter: Chapter) -> str:
    """Return the sha256 of everything that decides what the chapter shows.

    Models and data that parameters name by path, often gigabytes, count by their files' names, sizes and times, a short
    file that is named itself by its content.
    """
    digest = hashlib.sha256()
    cells = nbformat.read(chapter.notebook, as_version=4).cells
    sources = [(cell.cell_type, cell.source, _shown_metadata(cell)) for cell in cells]
    digest.update(json.dumps([sources, chapter.parameters, _named_inputs(chapter)], sort_keys=True).encode())
    imported = [name for cell in cells if cell.cell_type == "code" for name in imported_names(cell.source)]
    library = chapter.root / "edgelib"
    data = [path for path in _data_of(library) if _is_named(path.relative_to(library), [sources, chapter.parameters])]
    for path in [*files_behind(imported, library), *data, chapter.root / "constraints.txt"]:
        digest.update(path.relative_to(chapter.root).as_posix().encode() + b"\0")
        digest.update(code_digest(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).digest())
    for name in chapter.reads:
        digest.update(json.dumps(_digests(Chapter(name, chapter.root, {}).tables), sort_keys=True).encode())
    return digest.hexdigest()


def is_fresh(chapter: Chapter) -> bool:
    """Return whether the published chapter and its tables are what its present inputs made."""
    try:
        record = nbformat.read(chapter.published, as_version=4).metadata.get("edgelib", {})
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return False
    return record.get("inputs") == fingerprint(chapter) and record.get("tables") == _digests(chapter.tables)


def publish(chapter: Chapter, *, progress: bool = True) -> None:
    """Execute the chapter and put it and its tables into the book.

    The published notebook is replaced only after every cell ran. Raises EdgelibError when a cell fails, naming it; the
    notebook as far as it got is then left beside the chapter's results.
    """
    inputs = fingerprint(chapter)
    for stale in _saved(chapter):
        stale.unlink()
    running = chapter.published.with_name(f".{chapter.name}.running.ipynb")
    running.parent.mkdir(parents=True, exist_ok=True)
    try:
        execute(chapter, running, progress=progress)
        notebook = normalised(nbformat.read(running, as_version=4))
        tables = _copy_tables(chapter)
        notebook.metadata["edgelib"] = {"inputs": inputs, "parameters": chapter.parameters, "tables": tables}
        _write(notebook, running)
        os.replace(running, chapter.published)
    finally:
        running.unlink(missing_ok=True)


def execute(chapter: Chapter, target: Path, *, progress: bool = False) -> None:
    """Run the chapter's notebook with its parameters through papermill into `target`.

    Raises EdgelibError when a cell fails or was never reached.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    bar = {"desc": chapter.name, "leave": False} if progress else False
    reached = f"run `edgelib publish {chapter.name}` again once it is mended: finished grid cells are kept"
    try:
        with _own_ipython():
            papermill.execute_notebook(
                chapter.notebook, target, chapter.parameters, kernel_name="python3", cwd=chapter.root, progress_bar=bar
            )
    except papermill.PapermillExecutionError as error:
        kept = _keep_failed(chapter, target)
        fault = " ".join(str(error.evalue).split())
        raise EdgelibError(
            f"chapter {chapter.name} stopped at In [{error.exec_count}] with {error.ename}: {fault} "
            f"(as far as it got: {kept}); {reached}"
        ) from None
    except DeadKernelError:
        raise EdgelibError(
            f"chapter {chapter.name}: its kernel was killed, often for want of memory; {reached}"
        ) from None
    cells = nbformat.read(target, as_version=4).cells
    # A killed kernel can leave a notebook that looks finished: only an execution count proves that a cell ran.
    if any(cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None for cell in cells):
        raise EdgelibError(f"chapter {chapter.name}: not every cell ran; {reached}")


def normalised(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without what differs between two runs of the same inputs: times, ids, paths, versions."""
    notebook.metadata = NotebookNode({key: value for key, value in notebook.metadata.items() if key in KEPT_METADATA})
    language = notebook.metadata.get("language_info", {})
    notebook.metadata["language_info"] = {"name": "python", "file_extension": language.get("file_extension", ".py")}
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")})
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = _merged_streams(cell.outputs)
    return notebook


def publish_all(chapters: list[Chapter], *, force: bool = False, say: Callable[[str], None] = print) -> None:
    """Publish each chapter that is stale (every one with `force`), saying one line for each.

    A chapter comes after those whose tables it reads; else they keep their order.
    """
    for position, chapter in enumerate(_in_order(chapters), start=1):
        label = f"[{position}/{len(chapters)}] {chapter.name}"
        if not force and is_fresh(chapter):
            say(f"{label}: fresh")
            continue
        say(f"{label}: executing")
        publish(chapter)
        say(f"{label}: published as {chapter.published.relative_to(chapter.root)}")


def _in_order(chapters: list[Chapter]) -> list[Chapter]:
    by_name = {chapter.name: chapter for chapter in chapters}
    graph = {name: [other for other in chapter.reads if other in by_name] for name, chapter in by_name.items()}
    return [by_name[name] for name in TopologicalSorter(graph).static_order()]


def _shown_metadata(cell: NotebookNode) -> dict[str, Any]:
    return {key: cell.metadata[key] for key in ("tags", "mystnb") if key in cell.metadata}


def _data_of(library: Path) -> list[Path]:
    files = (path for path in library.rglob("*") if path.is_file() and path.suffix != ".py")
    return sorted(path for path in files if _is_visible(path.relative_to(library)))


def _is_named(path: Path, chapter: object) -> bool:
    """Whether a chapter (its sources and parameters) can see a file: of the embedded models, those that it names."""
    if "embedded" not in path.parts:
        return True
    text = json.dumps(chapter)
    return path.parent.name in text or "embedded_models" in text


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _named_inputs(chapter: Chapter) -> dict[str, list[tuple[str, str]]]:
    """Return (relative name, what tells its state) of each file under the paths that parameters name."""
    named = {}
    for parameter in chapter.sources:
        value = chapter.parameters.get(parameter) or []
        # The kernel runs in the checkout, so that is where a relative path starts.
        paths = [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value
        tops = [chapter.root / os.path.expanduser(path) for path in paths]
        if states := [state for top in tops for state in _states_below(top)]:
            named[parameter] = states
    return named


def _states_below(top: Path) -> list[tuple[str, str]]:
    if top.is_file() and top.stat().st_size <= _SHORT:  # a clone writes it at another time
        return [(".", hashlib.sha256(top.read_bytes()).hexdigest())]
    files = {path.relative_to(top): path for path in sorted(top.rglob("*"))} if top.is_dir() else {Path(): top}
    stats = {name.as_posix(): path.stat() for name, path in files.items() if path.is_file() and _is_visible(name)}
    return [(name, f"{stat.st_size} {stat.st_mtime_ns}") for name, stat in stats.items()]


def _digests(paths: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _saved(chapter: Chapter) -> list[Path]:
    return [path for path in sorted(chapter.results.glob("*")) if path.suffix in SAVED]


def _copy_tables(chapter: Chapter) -> dict[str, str]:
    """Replace the chapter's tables in the book by those it just wrote; return their digests.

    Each table is whole at any moment, and what the chapter no longer writes goes last: a kill leaves a usable book.
    """
    data = chapter.root / "book" / "data"
    data.mkdir(parents=True, exist_ok=True)
    new = {data / f"{chapter.name}-{table.name}": table for table in _saved(chapter)}
    for target, table in new.items():
        with whole_file(target) as place:
            shutil.copyfile(table, place)
    for old in set(chapter.tables) - set(new):
        old.unlink()
    return _digests(chapter.tables)


def _keep_failed(chapter: Chapter, target: Path) -> Path:
    chapter.results.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(target, chapter.results / "failed.ipynb"))


def _merged_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where the pieces break depends on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" == merged[-1].output_type and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _write(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _own_ipython():
    """Run kernels without the user's IPython start-up files, and without its notice about local connections."""
    before = os.environ.get("IPYTHONDIR")
    with tempfile.TemporaryDirectory(prefix="edgelib-ipython-") as folder:
        profile = Path(folder, "profile_default")
        profile.mkdir()
        (profile / "ipython_kernel_config.py").write_text("c = get_config()\nc.IPKernelApp.log_level = 'CRITICAL'\n")
        os.environ["IPYTHONDIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("IPYTHONDIR")
            if before is not None:
                os.environ["IPYTHONDIR"] = before
