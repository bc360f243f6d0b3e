"""Model folders with a field of a file changed: loaded and run, or refused in one paragraph, whatever the family."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import vlm_folders
from damaged import OTHER_VALUES, change_place, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelib import EdgelibError, load
from edgelib.models.load import EMBEDDED

FAMILIES = {
    "clip": vlm_folders.clip,
    "siglip2": vlm_folders.siglip2,
    "timm": lambda out: Path(shutil.copytree(EMBEDDED / "scenes-vit", out)),
    "qwen2_vl": vlm_folders.qwen2_vl,
}


def fields(folder: Path) -> list[tuple[str, tuple]]:
    """File and path of every field, but for the words of a vocabulary."""
    found = [
        (file.name, path) for file in sorted(folder.glob("*.json")) for path in places(json.loads(file.read_text()))
    ]
    return [(name, path) for name, path in found if "vocab" not in path[:-1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_changed_is_refused_in_one_paragraph_or_the_model_runs(family, tmp_path):
    whole = FAMILIES[family](tmp_path / "whole")
    known = fields(whole)

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(known), st.sampled_from(OTHER_VALUES), st.booleans())
    def check(field, value, rename):
        (name, path), folder = field, tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        facts = json.loads((folder / name).read_text())
        change_place(facts, path, value, rename)
        (folder / name).write_text(json.dumps(facts))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of transformers, about what it will do later
                load(folder).probe()
        except EdgelibError as error:
            assert "\n" not in str(error) and len(str(error)) < 2500

    check()
