"""Whatever is wrong with a model folder, the doctor says so on lines of its own, with the fix, and never raises."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import vlm_folders
from damaged import OTHER_VALUES, change_place, places

from edgelib.doctor.finding import REPORT
from edgelib.doctor.models import examine

TEXTS = ("", "{}", "[]", "null", '"x"', "NaN", "{", "\0", "[" * 5000, "version https://git-lfs.github.com/spec/v1\n")
SIZES = (2**31, 10**9, 3 * 10**5, float("nan"), "../..", "<b>")


def change(folder: Path, rng: random.Random) -> str:
    """Damage one file of a folder; say how."""
    file = rng.choice(sorted(folder.iterdir()))
    how = rng.choice(["field", "field", "field", "cut", "bytes", "gone", "folder", "loop", "text"])
    if how == "field":
        file = rng.choice(sorted(folder.glob("*config*.json")))
        facts = json.loads(file.read_text())
        path, value = rng.choice(places(facts)), rng.choice([*OTHER_VALUES, *SIZES])
        change_place(facts, path, value, rng.random() < 0.2)
        file.write_text(json.dumps(facts))
        return f"{file.name}: {path} = {value!r}"
    data = file.read_bytes()
    at = rng.randrange(len(data) + 1)
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "loop":
        file.symlink_to(file)
    elif how != "gone":
        kept = {"cut": data[:at], "bytes": data[:at] + rng.randbytes(8) + data[at + 8 :]}
        file.write_bytes(kept.get(how, rng.choice(TEXTS).encode()))
    return f"{file.name}: {how}"


@pytest.mark.parametrize(("family", "times"), [("clip", 20), ("qwen2_vl", 12)])
def test_any_damage_is_a_fault_with_its_fix_or_none(family, times, tmp_path):
    whole, rng = getattr(vlm_folders, family)(tmp_path / "whole"), random.Random(family)
    for _ in range(times):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        done = change(folder, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers, about what it will do later
            found = examine(str(folder))
        for finding in found.findings:
            assert "\n" not in finding.text and len(finding.text) < 3000, done
            assert not finding.fault or (finding.fix and REPORT not in finding.fix), (done, finding)
        assert found.works == bool(found.facts.get("chapters")), done
