"""`edgelib check` says which classes a model cannot be asked for, before any weights are read."""

from __future__ import annotations

import numpy as np
import pytest

from edgelib.chapters.params import check
from edgelib.chapters.table import CHAPTERS
from edgelib.errors import EdgelibError

LONG = "photo " * 60 + "{}"


def look(chapter: str, **given) -> None:
    check(given, CHAPTERS[chapter]).look()


@pytest.mark.parametrize("chapter", ["robustness_gap", "pareto", "calibration_sensitivity"])
def test_a_prompt_longer_than_the_model_reads_is_named(chapter):
    with pytest.raises(
        EdgelibError, match=r"of 6\d tokens is longer than the 32 tokens that scenes-clip reads; shorten"
    ):
        look(chapter, prompts=LONG)


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["circle", "very " * 60 + "square"], {"baseline_model": None}, "longer than the 32 tokens"),
        (["circle", "yak"], {}, "scenes-vit was trained on .* and has no 'yak'"),
    ],
    ids=["long", "unknown to the baseline"],
)
def test_a_class_that_a_model_cannot_be_asked_for_is_named(tmp_path, names, given, words):
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "mine.npz", images=images, labels=labels, class_names=np.array(names))
    with pytest.raises(EdgelibError, match=words):
        look("robustness_gap", dataset=str(tmp_path / "mine.npz"), n_images=4, n_calibration=1, **given)


GENERATED = {
    "questions of another benchmark": ("vlm_accuracy", {"pope": "scenes-mme"}, "pope='scenes-mme' holds .* of mme"),
    "split of images": ("robustness_gap", {"split": "trainn"}, r"no split 'trainn' \(did you mean 'train'"),
    "split of questions": ("edge_engines", {"split": "evening"}, "'scenes-vqa' has no split 'evening'"),
    "split of one benchmark": ("vlm_accuracy", {"mme_split": "evening"}, "'scenes-mme' has no split 'evening'"),
    "no scheme": ("robustness_gap", {"configs": ["fp32", {}]}, "an empty mapping names no scheme"),
}


@pytest.mark.parametrize("case", GENERATED)
def test_what_no_generated_set_or_scheme_has_is_named(case):
    chapter, given, words = GENERATED[case]
    with pytest.raises(EdgelibError, match=words):
        look(chapter, **given)
