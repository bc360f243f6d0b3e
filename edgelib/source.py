"""Which files of the library a piece of code depends on: those that it imports, at once or later, directly or not.

What counts of a file is its code: comments, docstrings and layout do not.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent

# The rooms of the library from the ground up; a module may import its own room and those below it.
FLOORS = (
    "errors",
    "source",
    "ground",
    "stats",
    "tasks",
    "devices",
    "decide",
    "formats",
    "corruptions",
    "observe",
    "data",
    "models",
    "kv",
    "quant",
    "files",
    "kernels",
    "train",
    "infer",
    "study",
    "report",
    "chapters",
    "doctor",
    "cli",
)


def files_behind(imports: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the .py files that importing these names can run, sorted.

    imports: dotted names such as "edgelib.quant.scheme" or "edgelib.quant.scheme.Scheme"; those of other packages are
    left out. root: the folder of the package. Imports inside functions count, those for type checkers alone do not.
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
    for node in _run(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:  # the library has no relative imports
            yield node.module  # what the name below may stand for when it is no module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def code_version(module: str, root: Path = ROOT) -> str:
    """SHA-256 of the code that a module of the library can run: its own and whatever it imports, directly or not.

    Comments, docstrings and layout do not count. root: the folder of the package.
    """
    digest = hashlib.sha256()
    for path in files_behind([module], root):
        digest.update(path.relative_to(root).as_posix().encode() + code_digest(path))
    return digest.hexdigest()


@cache
def code_digest(path: Path) -> bytes:
    """SHA-256 of what a Python file does: of its syntax tree without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).digest()


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a tree but those below `if TYPE_CHECKING:`."""
    todo = [tree]
    while todo:
        node = todo.pop(0)
        yield node
        below = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            below = list(node.orelse)
        todo = below + todo


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
