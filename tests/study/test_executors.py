"""Where tasks run: the same results in this process, in threads and in processes; errors arrive as themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT
from small_tasks import Shared, die, die_once, multiply, sleep_once, variable

from edgelib.errors import EdgelibError
from edgelib.study.executors import EXECUTORS, Cluster, Patience, StartError, run_tasks

# those of Ray have a file of their own
HERE = [name for name in EXECUTORS if name != "ray"]


@pytest.mark.slow
@pytest.mark.parametrize("executor", HERE)
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
    died = pytest.warns(UserWarning, match="its worker process ended with status 1")
    with died, pytest.raises(EdgelibError, match="a worker process died.*use fewer workers or executor serial"):
        list(run_tasks(die, [(1,)], Shared(3), executor="process", workers=1))


@pytest.mark.slow
def test_workers_see_the_environment_of_now(monkeypatch):
    for word in ("one", "two"):
        monkeypatch.setenv("A_WORD", word)
        assert list(run_tasks(variable, [("A_WORD",)], Shared(3), executor="process", workers=1)) == [word]


@pytest.mark.slow
def test_what_a_dead_worker_had_in_hand_is_given_to_another(tmp_path):
    tasks, lost = [(str(tmp_path), n) for n in range(1, 5)], []
    with pytest.warns(UserWarning, match="given to another worker"):
        done = run_tasks(
            die_once, tasks, Shared(3), executor="process", workers=2, on_failure=lambda *_: lost.append(_)
        )
        assert sorted(done) == [3, 6, 9, 12] and not lost


@pytest.mark.slow
def test_a_silent_worker_is_ended_named_and_its_task_done_by_another(tmp_path):
    tasks = [(str(tmp_path), n) for n in range(1, 7)]
    with pytest.warns(UserWarning, match="task 4: its worker was silent for .* s and was ended"):
        done = run_tasks(
            sleep_once,
            tasks,
            Shared(3),
            executor="process",
            workers=2,
            patience=Patience(factor=2, at_least=8.0),
            name=lambda task: f"task {task[1]}",
        )
        assert sorted(done) == [3 * n for n in range(1, 7)]


@pytest.mark.parametrize("executor", ["serial", "thread", pytest.param("process", marks=pytest.mark.slow)])
def test_one_task_that_raises_does_not_stop_the_others(executor):
    failed = []
    done = run_tasks(
        multiply,
        [(0,), (1,), (2,)],
        Shared(3),
        executor=executor,
        on_failure=lambda task, error: failed.append((task, str(error))),
    )
    assert sorted(done) == [3, 6]
    assert failed == [((0,), "cannot multiply by 0; choose another number")]


@pytest.mark.parametrize("executor", ["serial", "thread", pytest.param("process", marks=pytest.mark.slow)])
def test_what_cannot_be_prepared_is_said(executor):
    with pytest.raises(StartError, match="nothing can be multiplied by 13"):
        list(run_tasks(multiply, [(1,)], Shared(13), executor=executor))


@pytest.mark.parametrize(
    ("effort", "known", "limit"),
    [(1.0, [1.0, 1.0], float("inf")), (1.0, [1.0, 2.0, 99.0], 120.0), (10.0, [1.0, 2.0, 99.0], 400.0)],
    ids=["too few to tell", "at least", "times the median"],
)
def test_patience_is_a_multiple_of_what_was_seen(effort, known, limit):
    assert Patience(factor=20, at_least=120).limit(effort, known) == limit


@pytest.mark.parametrize(
    ("asked", "text"),
    [({"cpus": -1}, "cpus of a worker"), ({"gpus": 1.5}, "a share of one or a whole"), ({"cpus": 0}, "above 0")],
    ids=["negative", "one and a half", "nothing"],
)
def test_a_worker_asks_for_shares_that_exist(asked, text):
    with pytest.raises(EdgelibError, match=text):
        Cluster(**asked)


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
