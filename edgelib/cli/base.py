"""The application of `edgelib`, and how a mistake ends a command: one paragraph, exit status 1."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from edgelib.errors import EdgelibError
from edgelib.ground.records import printable

_LONGEST = 2400  # characters of a message

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What quantization costs a vision-language model, chapter by chapter.",
)


Over = Annotated[str, typer.Option("--yaml", "-y", help="Values that win over the file's: '{n_images: 8}'.")]


def _paragraph(message: str) -> str:
    """One line of at most `_LONGEST` characters, the middle left out: paths from outside can be of any length."""
    text, half = printable(" ".join(message.split())), _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


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
        print(f"edgelib: {_paragraph(message)}", file=sys.stderr)
        raise typer.Exit(1)

    return run
