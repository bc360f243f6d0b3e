"""The command `edgelib`: check parameters, run grids, publish chapters, train the embedded models."""

from __future__ import annotations

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgelib.chapters.params import check as checked
from edgelib.chapters.table import CHAPTERS, read, studies
from edgelib.errors import EdgelibError, choose
from edgelib.ground.checks import seed_number

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What quantization costs a vision-language model, chapter by chapter.",
)


Over = Annotated[str, typer.Option("--yaml", "-y", help="Values that win over the file's: '{n_images: 8}'.")]


def one_paragraph(command: Callable) -> Callable:
    """Turn a mistake, or a folder that cannot be used, into one paragraph on stderr and exit status 1."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except EdgelibError as error:
            message = str(error)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            message = f"cannot use{where}: {error.strerror or error}; check that the path exists and may be written"
        except KeyboardInterrupt:
            message = "interrupted; run the same command again to go on, finished grid cells are kept"
        print(f"edgelib: {message}", file=sys.stderr)
        raise typer.Exit(1)

    return run


@app.command()
@one_paragraph
def publish(
    chapters: Annotated[list[str] | None, typer.Argument(help="Chapters; all where none is named.")] = None,
    params_dir: Annotated[Path, typer.Option(help="Folder of <chapter>.yaml files.")] = Path("params"),
    results: Annotated[str | None, typer.Option(help="Folder for outcomes, in place of the parameter.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute fresh chapters too.")] = False,
) -> None:
    """Execute the chapters that are stale into book/chapters."""
    from edgelib.ground.paths import find_root
    from edgelib.report import publish as press

    root = find_root()
    folder = _existing_folder(params_dir, root)
    names = chapters or press.chapter_names(root)
    if not names:
        raise EdgelibError(f"there are no notebooks in {root / 'notebooks'}; run edgelib publish inside a checkout")
    extra = {} if results is None else {"results": results}
    wanted = [
        press.find_chapter(name, _parameters(name, folder, root) | extra, root, CHAPTERS[name].sources())
        for name in names
    ]
    press.publish_all(wanted, force=force)


@app.command()
@one_paragraph
def check(
    file: Annotated[Path, typer.Argument(help="Parameter file, named after its chapter.")],
    chapter: Annotated[str | None, typer.Option(help="Chapter, where the file is not named after it.")] = None,
    over: Over = "",
) -> None:
    """Validate a parameter file and print every value it leads to."""
    name, values = read(file, chapter, over)
    for field, value in checked(values, CHAPTERS[name]).model_dump().items():
        print(f"{field}: {value!r}" + ("" if field in values else "  # default"))
    print(f"{file} is valid for the chapter {name}; run it: edgelib publish {name} --params-dir {file.parent}")


@app.command()
@one_paragraph
def sweep(
    file: Annotated[Path, typer.Argument(help="Parameter file, named after its chapter.")],
    out: Annotated[Path | None, typer.Option(help="Parquet file for the outcomes, one row per item and cell.")] = None,
    chapter: Annotated[
        str | None, typer.Option(help=f"Chapter, where the file is not named after it: {', '.join(studies())}.")
    ] = None,
    over: Over = "",
) -> None:
    """Run the grid of a chapter without a notebook; started again, it computes only what is missing."""
    name = file.stem if chapter is None else chapter
    schema = choose(studies(), name, "chapter with a grid")
    parameters: Any = checked(read(file, name, over)[1], schema)
    from edgelib.ground.paths import find_root
    from edgelib.study.store import CellStore
    from edgelib.study.sweep import sweep as run

    study = parameters.study()
    results = find_root() / os.path.expanduser(parameters.results)
    rows = study.score(run(study, CellStore(results), executor=parameters.executor, workers=parameters.workers))
    rows = rows.drop(columns="reference", errors="ignore")  # the answers that were right: of several types
    out = out or results / "sweeps" / f"{file.stem}.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(out, index=False)
    marks = list(study.columns(*next(iter(study.cells()))))
    score = "correct" if "correct" in rows else "score"
    means = rows.groupby([mark for mark in marks if mark != "corruption"], sort=False)[score].mean()
    print((means.unstack("severity") if "severity" in marks else means.to_frame()).round(3).to_string())
    clean = ", severity 0 is clean" if "severity" in marks else ""
    print(f"simulated mean of {score!r}{clean}; {len(rows)} outcomes in {out}")


@app.command()
@one_paragraph
def measure(
    out: Annotated[Path, typer.Argument(help="Folder for the tables; chapters take it as `measurements`.")],
    suite: Annotated[str, typer.Option(help="full (tens of minutes) or quick.")] = "full",
    threads: Annotated[int | None, typer.Option(help="Threads to measure with; all cores where none is named.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the machine in the book.")] = None,
) -> None:
    """Time models of public dimensions on this machine, with every kernel that is installed.

    Started again after it was stopped, it goes on from the last case that was done.
    """
    import torch

    from edgelib.devices.machine import BUSY
    from edgelib.devices.measurements import save_measurements
    from edgelib.study import machine as measuring
    from edgelib.study.store import CellStore

    cases = choose(measuring.SUITES, suite, "suite")
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise EdgelibError(f"threads must be at least 1 and at most {cores}, the cores of this machine, got {threads}")
    torch.set_num_threads(threads or cores)
    store = CellStore(out / "unfinished")
    measured = measuring.measure_machine(cases, name=name, store=store, report=functools.partial(print, flush=True))
    folder = save_measurements(measured, out)
    shutil.rmtree(out / "unfinished")  # every case is in the tables now
    others = measured.machine["others"]
    print(
        f"measured {measured.machine['name']} into {folder}; other programs took {others:.1%} of its time"
        + ("; measure again when it is quiet" if others > BUSY else "")
    )


@app.command()
@one_paragraph
def train(
    name: Annotated[str, typer.Argument(help="Embedded model: scenes-clip, scenes-vit or scenes-vlm.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the trained model; results/<name> if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and their order.")] = 0,
) -> None:
    """Train an embedded model from scratch; tens of minutes on two cores."""
    from edgelib.train.table import TRAINERS

    trainer, recipe = choose(TRAINERS, name, "embedded model")
    seed = seed_number(seed)
    out = out or Path("results") / name
    trainer(out, recipe(seed=seed), report=functools.partial(print, flush=True))
    print(f"trained model in {out}; use it by its path, as in edgelib.load({str(out)!r})")


def _existing_folder(params_dir: Path, root: Path) -> Path:
    """Return the folder as given, or under the checkout."""
    for folder in (params_dir, root / params_dir):
        if folder.is_dir():
            return folder
    raise EdgelibError(f"no folder {params_dir} with parameter files; make one, such as params/<model>")


def _parameters(chapter: str, folder: Path, root: Path) -> dict:
    """Return the chapter's parameters from `folder`, else its published ones."""
    candidates = [folder / f"{chapter}.yaml", root / "params" / f"{chapter}.yaml"]
    path = next((path for path in candidates if path.is_file()), candidates[-1])
    return read(path)[1]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    app()
