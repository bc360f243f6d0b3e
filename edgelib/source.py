"""Which files of the library a piece of code depends on: those that it imports, at once or later, directly or not."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


def files_behind(imports: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the .py files that importing these names can run, sorted.

    imports: dotted names such as "edgelib.quant.scheme" or "edgelib.quant.scheme.Scheme"; those of other packages are
    left out. root: the folder of the package. Imports inside functions count, the branches for type checkers too.
    `import edgelib` itself, whose names are found when they are asked for, counts as all of it.
    """
    todo, found = list(imports), set()
    while todo:
        name = todo.pop()
        if name == root.name:
            return sorted(root.rglob("*.py"))
        path = _file(name, root)
        if path is not None and path not in found:
            found.add(path)
            todo.extend(_imports_of(path))
            todo.extend(_packages_above(path, root))
    return sorted(found)


def imported_names(code: str) -> Iterator[str]:
    """Yield the dotted names that Python source imports; lines that only a notebook understands are passed over."""
    lines = ("pass" if line.startswith(("%", "!")) else line for line in code.splitlines())
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:  # the library has no relative imports
            yield node.module  # what the name below may stand for when it is no module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _imports_of(path: Path) -> tuple[str, ...]:
    return tuple(imported_names(path.read_text(encoding="utf-8")))


def _packages_above(path: Path, root: Path) -> Iterator[str]:
    """The packages whose __init__ runs before a module; the outermost imports nothing by itself."""
    inner = path.relative_to(root).parts[:-1]
    yield from (".".join((root.name, *inner[:length])) for length in range(1, len(inner) + 1))


def _file(name: str, root: Path) -> Path | None:
    """The file of a module; None for anything else."""
    package, *parts = name.split(".")
    if package != root.name or not parts:
        return None
    path = root.joinpath(*parts)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)
