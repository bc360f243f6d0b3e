"""Reference pages from the sources themselves.

`{edgelib-api} corruptions` lists the documented public names of a module by reading its syntax tree, so that
the book builds where torch is not installed. `{edgelib-parameters} RobustnessGap` lists a chapter's parameters from
the schema that validates them. `{edgelib-rooms} all` lists the rooms of the library, from their imports.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]


def source_of(module: str) -> Path:
    """Return the file of edgelib.<module>, which may be a package."""
    path = ROOT.joinpath("edgelib", *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def signature(function: ast.FunctionDef) -> str:
    """Return the argument list without annotations: "(x, *, level=0.95)"."""
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(arguments)})"


def documented(module: str, names: list[str]) -> list[tuple[str, str, str, str]]:
    """Return (kind, name, signature, docstring) for the public documented functions and classes of edgelib.<module>."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if is_public and (text := ast.get_docstring(node)):
            is_class = isinstance(node, ast.ClassDef)
            shown = "" if is_class else signature(node)
            found[node.name] = ("class" if is_class else "function", node.name, shown, text)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"edgelib.{module} documents no {', '.join(missing)}")
    return [found[name] for name in names or found]


def api_entry(module: str, kind: str, name: str, shown: str, text: str) -> list[str]:
    """Return the markdown of one entry: its promise as a sentence, the rest as it stands in the source."""
    promise, _, rest = inspect.cleandoc(text).partition("\n\n")
    body = [promise.replace("\n", " "), ""]
    if rest:
        body += ["```````text", *rest.splitlines(), "```````", ""]
    return [f"::::::{{py:{kind}}} edgelib.{module}.{name}{shown}", *body, "::::::", ""]


def parameter_row(name: str, field: dict) -> str:
    """Return one table row: name, meaning, default, allowed values."""
    allowed = " or ".join(f"{_type(kind)} {_allowed(kind)}".strip() for kind in field.get("anyOf", [field]))
    default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
    cells = [f"`{name}`", field.get("description", ""), default, allowed]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(kind: dict) -> str:
    if "enum" in kind:
        return ""
    if kind.get("type") == "array":
        return f"list of {_type(kind['items'])}"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true/false"}
    return {**names, "null": "null"}.get(kind.get("type", ""), "value")


def _allowed(kind: dict) -> str:
    if kind.get("type") == "array":
        return _allowed(kind["items"])
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {kind[word]}" for word, sign in bounds.items() if word in kind)


class Generated(SphinxDirective):
    """Parse generated markdown as if it stood on the page."""

    required_arguments = 1
    option_spec = {"names": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        lines = self.lines(self.arguments[0])
        self.state.nested_parse(StringList(lines, self.arguments[0]), self.content_offset, container)
        return container.children


class Api(Generated):
    def lines(self, module: str) -> list[str]:
        self.env.note_dependency(str(source_of(module)))
        entries = documented(module, self.options.get("names", "").split())
        return [line for entry in entries for line in api_entry(module, *entry)]


class Parameters(Generated):
    def lines(self, schema: str) -> list[str]:
        table = library().import_module("edgelib.chapters.table")
        for file in sorted(Path(table.__file__).parent.glob("*.py")):
            self.env.note_dependency(str(file))
        chapter = next(chapter for chapter in table.CHAPTERS.values() if chapter.__name__ == schema)
        fields = chapter.model_json_schema()["properties"]
        head = ["| parameter | meaning | default | allowed |", "|---|---|---|---|"]
        return head + [parameter_row(name, field) for name, field in fields.items()]


class Rooms(Generated):
    """The library's rooms from the top floor down: a drawing, then what each holds, its size, which rooms it uses."""

    def lines(self, _: str) -> list[str]:
        source = library().import_module("edgelib.source")
        rooms = [room_of(source, name) for name in reversed(source.FLOORS)]
        head = ["| room | what it holds | modules | lines | uses |", "|:---|:---|---:|---:|:---|"]
        rows = [f"| `{r['name']}` | {r['promise']} | {r['modules']} | {r['lines']:,} | {r['uses']} |" for r in rooms]
        return ["```{raw} html", *arcs(rooms), "```", "", *head, *rows]


def room_of(source, name: str) -> dict:
    """What one room is: name, promise, modules, lines, rooms that it imports from, and `uses`, those it needs itself.

    uses leaves out what every room imports: errors and ground.
    """
    folder = ROOT / "edgelib" / name
    first = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    texts = [file.read_text(encoding="utf-8") for file in (folder.rglob("*.py") if folder.is_dir() else [first])]
    dotted = [name.split(".") for text in texts for name in source.imported_names(text)]
    imported = {parts[1] for parts in dotted if parts[0] == "edgelib" and len(parts) > 1} - {name}
    promise = inspect.cleandoc(ast.get_docstring(ast.parse(first.read_text(encoding="utf-8")))).partition("\n\n")[0]
    return {
        "name": name,
        "promise": promise.replace("\n", " "),
        "modules": len(texts) - folder.is_dir(),
        "lines": sum(text.count("\n") for text in texts),
        "imports": [room for room in source.FLOORS if room in imported],
        "uses": ", ".join(room for room in source.FLOORS if room in imported - {"errors", "ground"}),
    }


def arcs(rooms: list[dict]) -> list[str]:
    """Draw rooms under each other and an arc from each to every room below that it imports from, as inline SVG."""
    step, left, names = 26, 110, [room["name"] for room in rooms]
    place = {name: step * (number + 1) for number, name in enumerate(names)}
    pairs = [(room["name"], used) for room in rooms for used in room["imports"] if used not in ("errors", "ground")]
    lines = [
        f'<path d="M {left + 10} {place[a]} A {(place[b] - place[a]) / 2} {(place[b] - place[a]) / 2} 0 0 1 '
        f'{left + 10} {place[b]}"><title>{a} uses {b}</title></path>'
        for a, b in pairs
    ]
    labels = [f'<text x="{left}" y="{place[name] + 4}" text-anchor="end">{name}</text>' for name in names]
    height, width = step * (len(names) + 1), left + 10 + step * len(names) // 2 + 10
    return [
        '<figure class="align-default" style="max-width: 34rem">',
        f'<svg viewBox="0 0 {width} {height}" role="img" fill="currentColor" font-size="13"',
        'aria-label="Rooms of the library, top floor first; every arc joins a room with one below that it uses.">',
        '<g fill="none" stroke="currentColor" stroke-opacity="0.35">',
        *lines,
        "</g>",
        *labels,
        "</svg>",
        "<figcaption>Every arc leads down: a room uses rooms below it, never one above. Left out: errors and ground, "
        "which every room may use.</figcaption></figure>",
    ]


def library():
    """importlib, with the checkout's library on the path."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib


def setup(app) -> dict:
    app.add_directive("edgelib-api", Api)
    app.add_directive("edgelib-parameters", Parameters)
    app.add_directive("edgelib-rooms", Rooms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
