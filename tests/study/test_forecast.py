"""What a sweep will take: wall time from the seconds of tasks, against closed forms; the table before a sweep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some
from toy_study import Toy

from edgelib.errors import EdgelibError
from edgelib.study.plan import groups
from edgelib.study.plan.forecast import forecast
from edgelib.study.plan.groups import network_bytes
from edgelib.study.plan.makespan import BUILDING, STARTING, WAITING, plan
from edgelib.study.plan.probe import RUNNING
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

SECONDS = some.lists(some.floats(0, 100, allow_subnormal=False), min_size=1, max_size=20)


@pytest.mark.parametrize(("tasks", "workers"), [(7, 2), (6, 3), (3, 8)])
def test_equal_tasks_take_as_many_rounds_as_they_need(tasks, workers):
    made = plan([{"forward": 2.0}] * tasks, workers, building=3.0, starting=1.0)
    assert made.seconds == pytest.approx(4 + 2 * math.ceil(tasks / workers))


def test_one_worker_does_all_and_enough_workers_wait_for_the_longest():
    tasks = [{"corrupting": 1.0, "forward": 4.0}, {"forward": 2.0}, {"corrupting": 9.0}]
    assert plan(tasks, 1).seconds == 16 and plan(tasks, 1).parts[WAITING] == 0
    many = plan(tasks, 64)
    assert many.seconds == many.longest == many.at_least == 9
    assert many.binds == WAITING and many.share == pytest.approx((9 - 16 / 64) / 9)


@pytest.mark.parametrize(
    ("task", "before", "binds"),
    [
        ({"corrupting": 5.0, "forward": 1.0}, {}, "corrupting"),
        ({"corrupting": 1.0, "forward": 5.0}, {}, "forward"),
        ({"forward": 5.0}, {"building": 60.0}, BUILDING),
        ({"forward": 5.0}, {"starting": 60.0}, STARTING),
    ],
    ids=["corrupting", "forward", "building", "starting"],
)
def test_what_takes_longest_binds(task, before, binds):
    assert plan([task] * 8, 4, **before).binds == binds


@given(SECONDS, some.integers(1, 9), some.floats(0, 10))
def test_no_time_is_below_the_bound_nor_above_that_of_graham(seconds, workers, building):
    made = plan([{"forward": s} for s in seconds], workers, building=building)
    even, longest = sum(seconds) / workers, max(seconds)
    assert made.at_least - 1e-9 <= made.seconds <= building + even + longest * (1 - 1 / workers) + 1e-9
    assert sum(made.parts.values()) == pytest.approx(made.seconds)


def test_nothing_takes_no_time():
    made = plan([], 4, building=3.0, starting=1.0)
    assert (made.seconds, made.at_least, made.longest, made.parts[WAITING]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("tasks", "workers", "text"),
    [
        ([{"forward": 1.0}], 0, "workers"),
        ([{"forward": float("nan")}], 1, "0 or more"),
        ([{"a": -1.0}], 1, "0 or more"),
    ],
    ids=["no worker", "unknown", "negative"],
)
def test_what_cannot_be_is_refused(tasks, workers, text):
    with pytest.raises(EdgelibError, match=text):
        plan(tasks, workers)


def test_the_table_counts_what_is_missing_and_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("edgelib.study.plan.forecast._seconds_to_start", lambda: 0.5)  # seconds of this test
    study, store = Toy(places=10, n=40, cut=20), CellStore(tmp_path)
    for workers, ray in ((2, 2), (64, 20)):  # ten places of two shards
        table = forecast(study, store, workers=workers).set_index("executor")
        assert not any(tmp_path.rglob("*.parquet")) and (table.missing == 20).all() and (table.cells == 20).all()
        assert table.workers["serial"] == 1 and table.workers["ray"] == ray
        assert (table.seconds >= table.at_least - 1e-9).all() and (table.at_least >= table.longest).all()
        assert set(table.binds) <= {RUNNING, BUILDING, STARTING, WAITING} and (table.stored > 0).all()
    sweep(study, store, progress=False)
    table = forecast(study, store)
    assert (table.missing == 0).all() and (table.seconds == 0).all() and (table.binds == "").all()


def test_processes_keep_as_much_as_they_build_at_once(tmp_path, monkeypatch):
    """With room for two copies of a network, threads keep both variants, and two processes one each at a time."""
    monkeypatch.setattr("edgelib.study.plan.forecast._seconds_to_start", lambda: 0.0)
    monkeypatch.setattr(groups, "free_bytes", lambda: 4 * network_bytes(Toy(), "a"))
    memory = forecast(Toy(), CellStore(tmp_path), workers=2).set_index("executor").memory
    loaded = memory["thread"] - 2 * (one := network_bytes(Toy(), "a"))
    assert memory["serial"] == memory["thread"] and memory["process"] == loaded + 2 * (loaded + one)
