"""A small grid, and a process that computes it in a worker and is killed once the first condition is stored.

Run: python killed_sweep.py <folder of the store>.
"""

import os
import signal
import sys

import edgelib
from edgelib.study import sweep as module
from edgelib.study.classifier_grid import ClassifierGrid, conditions_of, variants_of
from edgelib.study.executors import run_tasks
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep


def small_grid() -> ClassifierGrid:
    """The embedded classifier and a twin in three configurations, under five conditions."""
    return ClassifierGrid(
        models={"m": edgelib.load("scenes-clip")},
        variants=variants_of("m", ["weight:8"], ["fp32", "w8a8-smoothquant", "w4a8-minmax"]),
        conditions=conditions_of(["fog", "shot_noise"], [2, 4]),
        data=edgelib.dataset("scenes", n=24),
        calibrations=(edgelib.calibration_set("balanced", 16),),
    )


def killed_after_the_first(work, tasks, shared, **how):
    """Run tasks as `run_tasks` does, until this process is killed in the midst of it."""
    for _ in run_tasks(work, tasks, shared, **how):
        os.kill(os.getpid(), signal.SIGKILL)
        yield


if __name__ == "__main__":
    module.run_tasks = killed_after_the_first
    sweep(small_grid(), CellStore(sys.argv[1]), executor="process", workers=1, progress=False)
