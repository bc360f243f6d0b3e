"""Every benchmark, one process after the other, and one table of goals over all: what `make bench` runs.

    python benchmarks/run.py [--quick] [script ...]

--quick takes under a minute per script, at sizes too small for the goals to be judged. A script that fails is named at
the end and does not stop the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from goals import FILE, Goal, verdicts

HERE = Path(__file__).resolve().parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("goals", "run"))


def main(words: list[str]) -> int:
    """Run the scripts that are named, all where none is; return the exit status."""
    quick, names = "--quick" in words, [word for word in words if word != "--quick"] or SCRIPTS
    if unknown := sorted(set(names) - set(SCRIPTS)):
        sys.exit(f"no benchmark {unknown[0]!r}; choose from {', '.join(SCRIPTS)}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "goals")
        found.touch()
        for name in names:
            print(f"== {name}", flush=True)
            start = time.perf_counter()
            command = [sys.executable, HERE / f"{name}.py", *(["--quick"] if quick else [])]
            if subprocess.run(command, env={**os.environ, FILE: str(found)}).returncode:
                failed.append(name)
            print(f"-- {name}: {time.perf_counter() - start:.0f} s\n", flush=True)
        goals = [Goal(**json.loads(line)) for line in found.read_text(encoding="utf-8").splitlines()]
    verdicts(goals, quick)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
