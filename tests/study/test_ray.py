"""Sweeps on a Ray cluster of two nodes on this machine: same bytes as alone, whatever is lost on the way."""

from __future__ import annotations

import os
import sys
import threading
import warnings

import pandas as pd
import pytest
import torch
from helpers import ROOT
from small_tasks import Shared, die_once, multiply, sleep_once
from toy_study import Toy

from edgelib.chapters.params import check
from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.table import read
from edgelib.errors import EdgelibError
from edgelib.study.executors import Cluster, Patience, StartError, run_tasks
from edgelib.study.store import CellStore
from edgelib.study.store.check import check_store
from edgelib.study.sweep import SweepError, sweep

ray = pytest.importorskip("ray", reason="comes with the extra 'ray'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::ResourceWarning")]


NAMES = ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_agent_register_timeout_ms")
# what Ray allows its own processes to start: a machine that runs other tests takes longer than its default
SLOW_START = {"RAY_agent_register_timeout_ms": "240000"}


MEMORY = 100 * 2**20


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes with room for one worker each."""
    from ray.cluster_utils import Cluster as Nodes

    before = {name: os.environ.get(name) for name in NAMES}
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ |= SLOW_START
    cluster = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def bytes_of(store: CellStore) -> dict:
    return {name: store.files.read(name) for name in store.files.names(".parquet")}


def test_a_task_of_a_dead_actor_is_given_to_another(nodes, tmp_path):
    tasks = [(str(tmp_path), n) for n in range(1, 4)]
    with pytest.warns(UserWarning, match="its Ray worker was lost .ActorDiedError.; it is given to another worker"):
        assert sorted(run_tasks(die_once, tasks, Shared(3), executor="ray", workers=2)) == [3, 6, 9]


def test_a_silent_actor_is_ended_and_its_task_done_by_another(nodes, tmp_path):
    tasks = [(str(tmp_path), n) for n in range(1, 7)]
    how = {"patience": Patience(factor=2, at_least=8.0), "name": lambda task: f"task {task[1]}"}
    with pytest.warns(UserWarning, match="task 4: its worker was silent for .* s and was ended"):
        done = run_tasks(sleep_once, tasks, Shared(3), executor="ray", workers=2, **how)
        assert sorted(done) == [3 * n for n in range(1, 7)]


def test_errors_arrive_as_themselves(nodes):
    with pytest.raises(EdgelibError, match="cannot multiply by 0; choose another number"):
        list(run_tasks(multiply, [(0,)], Shared(3), executor="ray", workers=1))
    with pytest.raises(StartError, match="nothing can be multiplied by 13"):
        list(run_tasks(multiply, [(1,)], Shared(13), executor="ray", workers=1, cluster=Cluster(cpus=0.5)))


def test_a_poisoned_cell_on_a_cluster_is_named_at_the_end(nodes, tmp_path):
    with pytest.raises(SweepError, match="1 of 8 cells failed each time"):
        sweep(Toy(trouble={1: "raise"}), CellStore(tmp_path), executor="ray", progress=False)
    assert check_store(CellStore(tmp_path)).cells == 7


def swept_while_a_node_leaves(cluster, study, store, cells: int) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a sweep by two actors, one of whose nodes is ended once so many cells are stored; its warnings.

    Another node joins first where the last test ended one.
    """
    if not cluster.worker_nodes:
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    second, gone, done = next(iter(cluster.worker_nodes)), [], threading.Event()

    def leave() -> None:
        while sum(1 for _ in store.folder.rglob("*.parquet")) < cells and not done.wait(0.05):
            pass
        cluster.remove_node(second, allow_graceful=False)
        gone.append(not done.is_set())

    thread = threading.Thread(target=leave)
    thread.start()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            rows = sweep(study, store, executor="ray", workers=2, progress=False)
    finally:
        done.set()
        thread.join()
    assert gone == [True], "the sweep was over before the node was ended"
    return rows, [str(warning.message) for warning in told]


def test_a_node_that_leaves_changes_nothing(nodes, tmp_path):
    slow = Toy(places=16, n=10, cut=4, trouble=dict.fromkeys(range(16), "slow"))
    alone, shared = CellStore(tmp_path / "alone"), CellStore(tmp_path / "shared")
    expected = sweep(Toy(places=16, n=10), alone, progress=False)
    rows, _ = swept_while_a_node_leaves(nodes, slow, shared, cells=4)
    pd.testing.assert_frame_equal(rows, expected)
    assert bytes_of(alone) == bytes_of(shared)


def test_the_published_grid_loses_a_node_midway_and_ends_with_the_same_bytes(nodes, tmp_path):
    """Every model, twin, configuration, corruption and severity of the published grid, on few images."""
    values = read(ROOT / "params" / "robustness_gap.yaml")[1] | {"n_images": 4, "n_calibration": 8}
    study = check(values, RobustnessGap).study()
    assert len(study.variants) == 37 and len(study.conditions) == 31
    alone, shared = CellStore(tmp_path / "alone"), CellStore(tmp_path / "shared")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of the two workers has
    try:
        expected = sweep(study, alone, progress=False)
        rows, told = swept_while_a_node_leaves(nodes, study, shared, cells=len(list(study.cells())) // 2)
    finally:
        torch.set_num_threads(threads)
    assert any("its Ray worker was lost" in text and "given to another worker" in text for text in told), told
    pd.testing.assert_frame_equal(rows, expected)
    assert bytes_of(alone) == bytes_of(shared) and len(bytes_of(alone)) == 667
