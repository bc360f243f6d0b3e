"""Where tasks run: the same results in this process, in threads and in processes; errors arrive as themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT
from small_tasks import Shared, die, multiply

from edgelib.errors import EdgelibError
from edgelib.study.executors import EXECUTORS, run_tasks


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_task_is_done_once_and_an_error_arrives_as_itself(executor):
    tasks = [(n,) for n in range(1, 9)]
    done = run_tasks(multiply, tasks, Shared(3), executor=executor, workers=2)
    assert sorted(done) == [3 * n for n in range(1, 9)]
    with pytest.raises(EdgelibError, match="cannot multiply by 0; choose another number"):
        list(run_tasks(multiply, [(0,)], Shared(3), executor=executor, workers=1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_tasks_have_no_results(executor):
    assert list(run_tasks(multiply, [], Shared(3), executor=executor)) == []


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_how_to_go_on():
    with pytest.raises(EdgelibError, match="a worker process died.*use fewer workers or executor serial"):
        list(run_tasks(die, [(1,)], Shared(3), executor="process", workers=1))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from small_tasks import Shared, multiply
from edgelib.study.executors import run_tasks
print(list(run_tasks(multiply, [(1,), (2,)], Shared(3), executor="process", workers=1)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("piped", [False, True], ids=["script", "standard input"])
def test_a_script_that_its_workers_cannot_import_is_told_to_guard_its_work(tmp_path, piped):
    text = SCRIPT.format(tests=str(ROOT / "tests"))
    (tmp_path / "mine.py").write_text(text)
    command = [sys.executable, "-" if piped else "mine.py"]
    done = subprocess.run(
        command, cwd=tmp_path, input=text if piped else "", capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "EdgelibError: the worker processes ended before they could begin" in last and "__main__" in last
    assert "often: out of memory" not in done.stderr
