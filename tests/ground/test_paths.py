"""Files that appear whole, whatever happens while they are written; pipes in their place."""

from __future__ import annotations

import os
import threading

import pytest

from edgelib.data.datasets import dataset
from edgelib.decide.record import read_record
from edgelib.devices.measurements import load_measurements
from edgelib.devices.table import devices
from edgelib.errors import EdgelibError
from edgelib.ground.paths import whole_file
from edgelib.ground.records import read_yaml
from edgelib.models.checks import stored_types
from edgelib.models.preprocess import read_object


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "rows.csv"
    with whole_file(path) as place:
        place.write_text("new")
        assert not path.exists() and place.suffix == ".csv"
    assert path.read_text() == "new" and [p.name for p in path.parent.iterdir()] == ["rows.csv"]


def test_what_was_there_stays_where_the_block_raises(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as place:
        place.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    path, failed = tmp_path / "rows.csv", []

    def write(text: str) -> None:
        try:
            for _ in range(50):
                with whole_file(path) as place:
                    place.write_text(text)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_text() in [letter * 1000 for letter in "abcd"]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


READERS = {
    "parameters": ("robustness_gap.yaml", lambda path: read_yaml(path, "parameter file")),
    "configuration": ("config.json", read_object),
    "weights": ("model.safetensors", lambda path: stored_types(path.parent)),
    "machine": ("machine.yaml", lambda path: load_measurements(path.parent)),
    "decision": ("decision.json", read_record),
    "arrays": ("images.npz", dataset),
    "devices": ("board.yaml", devices),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_and_never_waited_for(reader, tmp_path):
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    with pytest.raises(EdgelibError, match="is a pipe, a socket or a device, which is not read here; name a file"):
        read(tmp_path / name)
