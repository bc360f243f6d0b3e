"""One line of what the doctor says, and how examinations go on after a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgelib.errors import EdgelibError
from edgelib.ground.hub import first_line

REPORT = "report it with the output of edgelib doctor --json"


@dataclass(frozen=True)
class Finding:
    """What was looked at and what is so; with a fix, what would mend it.

    fault: whether something that was asked for cannot work until the fix is made.
    """

    topic: str
    text: str
    fix: str = ""
    fault: bool = False

    @property
    def mark(self) -> str:
        """ "ok", "note" (it works, and a fix would bring more) or "fault"."""
        return "fault" if self.fault else "note" if self.fix else "ok"


def guarded(topic: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what `look` finds; whatever it raises becomes a fault of the topic, behind what it found before."""
    found: list[Finding] = []
    try:
        found.extend(look())  # keeps what came before an error
    except EdgelibError as error:
        found.append(fault_of(topic, error))
    except OSError as error:
        found.append(Finding(topic, f"cannot be read: {first_line(error)}", "check the path and its permissions", True))
    except Exception as error:  # a broken installation raises any type, from any library
        found.append(Finding(topic, f"cannot be told: {first_line(error)}", REPORT, fault=True))
    return found


def fault_of(topic: str, error: EdgelibError) -> Finding:
    """A mistake as a fault: errors of this library say what is wrong, a semicolon outside brackets, and the fix."""
    text, depth = str(error), 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == ";" and depth <= 0:
            return Finding(topic, text[:i], text[i + 1 :].strip(), fault=True)
    wrong, _, fix = text.partition(". ")
    return Finding(topic, wrong, fix or "mend that, or take another", fault=True)
