"""Which layers a scheme is for, as a part of its name: "w8a8-minmax(exclude=vision_model.head.*)".

Cells, tables and figures know a scheme by one text. Its numbers and method have a name in `edgelib.quant.names`; layers
that are chosen or left out stand behind it in brackets, sorted: targets=<pattern>,<pattern>;exclude=<pattern>.
"""

from __future__ import annotations

from edgelib.errors import EdgelibError, did_you_mean

EVERY = ("*",)  # targets that need no word
FIELDS = ("targets", "exclude")
_MARKS = frozenset("(),;=")  # of the grammar, which no layer has in its name


def split_layers(text: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return (name, {"targets" or "exclude": patterns}) of a scheme's text; raises EdgelibError for brackets amiss."""
    if "(" not in text and ")" not in text:
        return text, {}
    name, _, inside = text.partition("(")
    how = f"write it as in {name or 'w8a8-minmax'}(exclude=lm_head,*.head.*)"
    if not inside.endswith(")") or "(" in inside or ")" in inside[:-1]:
        raise EdgelibError(f"the brackets of scheme {text!r} do not close at its end; {how}")
    layers: dict[str, tuple[str, ...]] = {}
    for part in inside[:-1].split(";"):
        field, equals, patterns = part.partition("=")
        if field not in FIELDS or not equals or field in layers:
            known = f"choose from {' and '.join(FIELDS)}, each once"
            raise EdgelibError(
                f"{part!r} in scheme {text!r} means nothing{did_you_mean(field, FIELDS)}; {known}; {how}"
            )
        layers[field] = tuple(patterns.split(","))
        if not all(layers[field]):
            raise EdgelibError(f"{part!r} in scheme {text!r} has a pattern without a letter; {how}")
    return name, layers


def write_layers(targets: tuple[str, ...], exclude: tuple[str, ...], named: tuple[str, ...]) -> str:
    """Return what stands behind a name; empty where the scheme is for every layer, or for those that its name says.

    named: the targets that the name itself has a word for (-vision). Raises EdgelibError for a pattern that cannot be a
    part of a name.
    """
    chosen = {"targets": () if targets in (EVERY, named) else targets, "exclude": exclude}
    for pattern in (*chosen["targets"], *exclude):
        if _MARKS & set(pattern) or not pattern.isprintable():
            raise EdgelibError(f"the pattern {pattern!r} is of no layer's name: leave out {' '.join(sorted(_MARKS))}")
    parts = [f"{field}={','.join(sorted(set(patterns)))}" for field, patterns in chosen.items() if patterns]
    return f"({';'.join(parts)})" if parts else ""


def label_layers(targets: tuple[str, ...], exclude: tuple[str, ...], named: tuple[str, ...]) -> list[str]:
    """Return what figures and tables say of the layers: "only *.mlp.*", "without lm_head"."""
    only = [] if targets in (EVERY, named) else [f"only {' and '.join(sorted(set(targets)))}"]
    return only + ([f"without {' and '.join(sorted(set(exclude)))}"] if exclude else [])
