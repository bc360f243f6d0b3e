"""In a kernel progress goes outside: to the standard error that the kernel was started with, not into the notebook."""

from __future__ import annotations

import json
import subprocess
import sys

from edgelib.ground import progress

CELL = """
from edgelib.ground.progress import progress_bar
with progress_bar(4, "cells") as done:
    done(4)
"""


def test_a_bar_counts_to_the_end_on_standard_error(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress.progress_bar(3, "cells") as done:
        done(3)
    with progress.progress_bar(3, "cells", shown=False) as done:
        done(1)
    said = capsys.readouterr()
    assert "3/3" in said.err and "1/3" not in said.err and not said.out


def test_a_script_sees_progress_and_the_notebook_does_not(tmp_path):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": CELL}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "in.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    )
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, start_new_session=True)
    assert done.returncode == 0, done.stderr
    assert "4/4" in done.stderr and "cells/s" in done.stderr
    assert json.loads((tmp_path / "out.ipynb").read_text())["cells"][0]["outputs"] == []
