"""Where the tasks of a study run: this process, its threads, processes of this machine, the actors of a Ray cluster."""

from edgelib.study.executors.cluster import Cluster
from edgelib.study.executors.dispatch import Patience, StartError
from edgelib.study.executors.run import EXECUTORS, run_tasks

__all__ = ["EXECUTORS", "Cluster", "Patience", "StartError", "run_tasks"]
