"""Inputs that cannot be right: one thing under two names, sizes without a bound, the wrong kind for a chapter."""

from __future__ import annotations

import math

import pytest

from edgelib.chapters.params import begin, check, validate
from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.table import CHAPTERS
from edgelib.errors import EdgelibError

BOMB: list = ["x"] * 10
for _ in range(40):
    BOMB = [BOMB] * 10
ARCHITECTURE = "edgelib/devices/architectures/qwen2-vl-2b.json"

# case: (chapter, parameters, what is said)
TWICE = {
    "long name": (
        "robustness_gap",
        {"configs": ["fp32", "w8a16", "w8a16-minmax"]},
        "'w8a16' and 'w8a16-minmax' are the",
    ),
    "capitals": ("robustness_gap", {"configs": ["fp32", "w8a16", "W8A16"]}, "'w8a16' and 'W8A16' are the same"),
    "group of the short name": ("efficiency", {"configs": ["w4a16", "w4a16-minmax-g128"]}, "are the same"),
    "usual rule": ("efficiency", {"configs": ["mxfp4", "mxfp4-floor"]}, "'mxfp4' and 'mxfp4-floor' are the same"),
    "usual alpha": ("pareto", {"configs": ["w4a8-smoothquant", "w4a8-smoothquant-alpha0.50"]}, "are the same"),
    "percentile": ("pareto", {"configs": ["w8a8-minmax-static-p99.9", "w8a8-minmax-static-p99.90"]}, "are the same"),
    "vision": ("vlm_accuracy", {"configs": ["bf16", "fp8-vision"], "vision_configs": ["FP8-vision"]}, "named twice"),
    "twins": ("robustness_gap", {"twins": ["weight:8", "weight:8.0"]}, "'weight:8' and 'weight:8.0' are the same"),
    "exponent": ("embedded_world", {"twins": ["key:100", "key:1e2"]}, "'key:100' and 'key:1e2' are the same"),
    "no outliers": ("embedded_world", {"twins": ["weight:1", "activation:1"]}, "are the same"),
    "caches": ("fp8_kv_ablation", {"fixes": ["e4m3", "e4m3-amax"]}, "'e4m3' and 'e4m3-amax' are the same"),
    "order of words": ("fp8_kv_ablation", {"fixes": ["int8-mean-konly", "int8-konly-mean"]}, "are the same"),
    "lost scale of 1": ("fp8_kv_ablation", {"fixes": ["e4m3-one", "e4m3-one-undelivered"]}, "are the same"),
    "dose schemes": ("fp8_kv_ablation", {"dose_schemes": ["int8-p99.9", "int8-p99.90"]}, "are the same"),
    "doses": ("fp8_kv_ablation", {"doses": [64, 64.0]}, "named twice: 64"),
    "mixes": ("calibration_sensitivity", {"mixes": ["corrupted", "corrupted:all:3"]}, "are the same"),
    "conditions": ("vlm_accuracy", {"conditions": ["fog:3", "fog:3"]}, "named twice: fog:3"),
    "devices": ("efficiency", {"devices": ["jetson-nano", "jetson-nano"]}, "named twice: jetson-nano"),
    "devices of the guide": ("pareto", {"devices": ["jetson-nano", "jetson-nano"]}, "named twice: jetson-nano"),
    "a file of a name": ("efficiency", {"architectures": ["qwen2-vl-2b", ARCHITECTURE]}, "are the same"),
}
IMPOSSIBLE = {
    "digits of another script": ("robustness_gap", {"configs": ["fp32", "w4a8-minmax-g٣٢"]}, "unknown option"),
    "letters of another script": ("fp8_kv_ablation", {"fixes": ["int4-\u212aivi"]}, "unknown part"),
    "numbers of another script": ("embedded_world", {"twins": ["weight:٨"]}, "needs a strength"),
    "underscore": ("embedded_world", {"twins": ["weight:1_000"]}, "needs a strength"),
    "blank": ("embedded_world", {"twins": ["weight: 8"]}, "needs a strength"),
    "endless twin": ("embedded_world", {"twins": ["weight:1e300"]}, "at most 1,000,000,000"),
    "groups of 10^23": ("pareto", {"configs": ["fp32", f"w4a8-minmax-g{10**23}"]}, "no layer has more than 262,144"),
    "groups of caches": ("fp8_kv_ablation", {"fixes": [f"int8-token-g{10**23}"]}, "unknown part"),
    "layer of caches": ("fp8_kv_ablation", {"fixes": [f"int8-amax-layers{10**23}"]}, "unknown part"),
    "infinite dose": ("fp8_kv_ablation", {"doses": [1.0, math.inf]}, r"doses\[1\] = inf: should be a finite number"),
    "no number": ("fp8_kv_ablation", {"margin": math.nan}, "margin = nan: should be a finite number"),
    "infinite budget": ("pareto", {"budgets": {"bytes": math.inf}}, r"budgets.bytes = inf: should be a finite number"),
    "no bytes": ("pareto", {"budgets": {"bytes": 0.0}}, "must be above 0"),
    "less than no time": ("pareto", {"budgets": {"latency_ms": -1.0}}, "must be above 0"),
    "empty budget": ("pareto", {"budgets": {}}, "limits nothing"),
    "infinite slack": ("pareto", {"mix_slack": math.inf}, "mix_slack = inf: should be a finite number"),
    "negative slack": ("pareto", {"mix_slack": -0.5}, "greater than or equal to 0"),
    "batch": ("robustness_gap", {"batch_size": 10**20}, "batch_size = 100000000000000000000: .*less than or equal"),
    "images": ("robustness_gap", {"n_images": 10**12}, "n_images = 1000000000000: .*less than or equal"),
    "images to calibrate on": ("calibration_sensitivity", {"sizes": [8, 10**12]}, r"sizes\[1\] = .*less than or equal"),
    "context": ("efficiency", {"context": 10**20}, "less than or equal"),
    "number of 5,000 digits": ("robustness_gap", {"n_images": 10**5000}, "n_images = a number of 16,610 bits"),
    "NUL in a path": ("efficiency", {"results": "a\0b"}, r"results = .*cannot hold the character '\\x00'"),
    "half a character": ("efficiency", {"results": "\ud800"}, "should be a valid string"),
    "long path": ("efficiency", {"device_table": "x" * 4000}, "cannot read the device table"),
    "nobody's home": ("efficiency", {"device_table": "~nobody-at-all/x"}, "cannot read the device table"),
    "architecture": ("efficiency", {"architectures": ["qwen2-vl-3b"]}, "did you mean 'qwen2-vl-2b'"),
    "measurements": ("efficiency", {"measurements": "nowhere"}, "no measurements: cannot read the machine nowhere"),
    "one permutation short": ("calibration_sensitivity", {"n_bootstrap": 100}, "greater than or equal to 101"),
    "two groups": (
        "calibration_sensitivity",
        {"configs": ["w4a8-awq", "w4a8-gptq"], "twins": []},
        "2 configs without twins are 2 groups of runs, .*needs 3",
    ),
    "bomb": ("robustness_gap", {"configs": BOMB}, r"configs\[0\] = \[\[\[.*should be a valid string"),
    "bomb of mappings": ("pareto", {"tiers": {"mobile": {"a": BOMB}}}, "tiers.mobile = .*should be a valid string"),
}
KINDS = {
    "model that writes": (
        "robustness_gap",
        {"model": "scenes-vlm"},
        "scenes-vlm writes answers, .*vlm_accuracy and fp8",
    ),
    "it measured": ("efficiency", {"model": "scenes-vlm"}, "scenes-vlm writes answers"),
    "it shown": ("embedded_world", {"model": "scenes-vlm"}, "scenes-vlm writes answers"),
    "baseline that writes": ("robustness_gap", {"baseline_model": "scenes-vlm"}, "scenes-vlm writes answers"),
    "baseline that reads prompts": ("robustness_gap", {"baseline_model": "scenes-clip"}, "no supervised classifier"),
    "questions": ("robustness_gap", {"dataset": "scenes-vqa"}, "scenes-vqa holds questions, .*vlm_accuracy and fp8"),
    "questions of costs": ("pareto", {"dataset": "scenes-mme"}, "scenes-mme holds questions"),
    "classifier": ("vlm_accuracy", {"model": "scenes-clip"}, "scenes-clip classifies images, .*robustness_gap"),
    "supervised": ("fp8_kv_ablation", {"model": "scenes-vit"}, "scenes-vit classifies images, .*robustness_gap"),
    "labels": ("vlm_accuracy", {"vqa": "scenes"}, "scenes holds labelled images, .*robustness_gap"),
    "labels of caches": ("fp8_kv_ablation", {"dataset": "scenes"}, "scenes holds labelled images"),
}
ALL = TWICE | IMPOSSIBLE | KINDS


@pytest.mark.parametrize("case", ALL)
def test_what_cannot_be_right_is_said_before_anything_runs(case, root, monkeypatch):
    monkeypatch.chdir(root)
    chapter, wrong, said = ALL[case]
    with pytest.raises(EdgelibError, match=said) as caught:
        check(wrong, CHAPTERS[chapter])
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 5000
    namespace: dict = {}
    begin(namespace)
    namespace |= wrong
    with pytest.raises(EdgelibError, match=said):
        validate(namespace, CHAPTERS[chapter])


def test_other_spellings_become_the_usual_one_and_find_each_other():
    given = {
        "configs": ["FP32", "w8a16-minmax"],
        "twins": ["weight:8.0"],
        "twin_configs": ["W8A16"],
        "baseline_model": None,
    }
    chosen = check(given, RobustnessGap)
    assert (chosen.configs, chosen.twins, chosen.twin_configs) == (["fp32", "w8a16"], ["weight:8"], ["w8a16"])


def test_equal_doses_of_key_offsets_are_not_the_model_itself():
    assert check({"twins": ["key:1", "key-offset:1"]}, CHAPTERS["fp8_kv_ablation"]).twins == ["key:1", "key-offset:1"]


SMALL = {"n_images": 4, "n_calibration": 4, "batch_size": 4}
TINY = {"n_vqa": 2, "n_pope": 2, "n_mme": 28, "n_translation": 2, "n_calibration": 2}
LATE = {
    "model that writes": ("robustness_gap", SMALL | {"model": "scenes-vlm"}, "scenes-vlm writes answers"),
    "questions": ("pareto", SMALL | {"dataset": "scenes-pope"}, "scenes-pope holds questions"),
    "classifier": ("fp8_kv_ablation", SMALL | {"model": "scenes-clip"}, "scenes-clip classifies images"),
    "labels": ("fp8_kv_ablation", SMALL | {"dataset": "scenes"}, "scenes holds labelled images"),
    "baseline": ("robustness_gap", SMALL | {"baseline_model": "scenes-clip"}, "no supervised classifier"),
    "tower": (
        "robustness_gap",
        SMALL | {"configs": ["fp32", "w8a8-minmax-vision"], "twins": []},
        "w8a8-minmax-vision rounds the vision tower .*scenes-clip does not have; take w8a8-minmax",
    ),
    "decoder": ("robustness_gap", SMALL | {"twins": ["key-offset:8"]}, "key-offset:8 is of the decoder"),
    "keys": ("robustness_gap", SMALL | {"model": "scenes-vit", "twins": ["key:8"]}, "no attention with q, k, v"),
    "groups": ("robustness_gap", SMALL | {"configs": ["fp32", "w4a8-minmax-g7"]}, "does not fit scenes-clip"),
    "groups of answers": ("vlm_accuracy", TINY | {"configs": ["bf16", "w4a16-awq-g7"]}, "does not fit scenes-vlm"),
}


@pytest.mark.parametrize("case", LATE)
def test_parts_that_a_model_lacks_are_said_where_the_study_is_laid_out(case):
    chapter, given, said = LATE[case]
    with pytest.raises(EdgelibError, match=said):
        CHAPTERS[chapter](**given).study()
