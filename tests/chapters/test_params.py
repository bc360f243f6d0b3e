"""Parameters: what is given is what is used, and what is wrong is said in one paragraph."""

from __future__ import annotations

from graphlib import TopologicalSorter

import pytest

from edgelib.chapters.calibration_sensitivity import CalibrationSensitivity
from edgelib.chapters.efficiency import Efficiency
from edgelib.chapters.embedded_world import EmbeddedWorld
from edgelib.chapters.params import begin, check, validate
from edgelib.chapters.pareto import Pareto
from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.schema.base import Parameters
from edgelib.chapters.table import CHAPTERS, read
from edgelib.errors import EdgelibError


def run_cells(*cells: str, schema=RobustnessGap) -> Parameters:
    """Run cells in one namespace between begin and validate, as a kernel does."""
    namespace = {"earlier": [1]}
    begin(namespace)
    for cell in cells:
        exec(cell, namespace)
    return validate(namespace, schema)


def test_a_value_from_the_cells_reaches_the_chapter():
    chosen = run_cells("n_images: int = 7\nseverities = [5, 3]")
    assert (chosen.n_images, chosen.severities) == (7, [3, 5])


def test_the_injected_cell_wins_over_the_defaults():
    assert run_cells("n_images = 7", "# Parameters\nn_images = 9").n_images == 9


def test_names_from_before_the_parameters_are_no_parameters():
    assert run_cells("seed = 3").seed == 3


def test_running_the_cells_again_forgets_the_first_run():
    namespace: dict = {}
    begin(namespace)
    exec("severties = [1]", namespace)
    with pytest.raises(EdgelibError, match="severties"):
        validate(namespace, RobustnessGap)
    begin(namespace)
    exec("severities = [2]", namespace)
    assert validate(namespace, RobustnessGap).severities == [2]
    exec("rows = [1, 2, 3]", namespace)
    begin(namespace)
    exec("severities = [3]", namespace)
    assert validate(namespace, RobustnessGap).severities == [3]


def test_a_misspelt_name_comes_back_with_the_right_one():
    with pytest.raises(EdgelibError, match=r"unknown parameter 'severties' \(did you mean 'severities'\?\)"):
        run_cells("severties = [1]")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({"n_images": "many"}, "n_images = 'many'.*integer", id="text for a number"),
        pytest.param({"n_images": 2.5}, "n_images = 2.5.*integer", id="fraction for a count"),
        pytest.param({"n_images": True}, "n_images = True.*integer", id="flag for a count"),
        pytest.param({"n_images": 0}, "n_images = 0.*greater than or equal to 2", id="too few"),
        pytest.param({"severities": [1, 6]}, r"severities\[1\] = 6.*less than or equal to 5", id="severity 6"),
        pytest.param({"severities": "[1, 2]"}, r"severities = '\[1, 2\]'.*list", id="list as text"),
        pytest.param({"severities": []}, "severities = .*at least 1 item", id="empty list"),
        pytest.param({"severities": [1, 1]}, "named twice: 1", id="severity twice"),
        pytest.param({"table": "imagenet"}, "'imagenet-c' or 'cifar-c'.*did you mean 'imagenet-c'", id="table"),
        pytest.param({"executor": "ray-cluster"}, "'serial', 'thread', 'process' or 'ray'", id="executor"),
        pytest.param({"twin_configs": ["fp16"]}, "twin_configs names 'fp16', but configs has only", id="twin config"),
        pytest.param({"twin_severities": [4]}, "twin_severities names 4, but severities has only 1, 5", id="twin at 4"),
        pytest.param({"twin_severities": []}, "twin_severities = .*at least 1 item", id="no severity for twins"),
        pytest.param({"configs": ["fp32"]}, "the reference, and one to compare with it", id="nothing to compare"),
        pytest.param({"label_column": ""}, "label_column = ''.*at least 1 character", id="column without a name"),
        pytest.param({"device": "gpu"}, "device = 'gpu'", id="device"),
        pytest.param({"level": 1.0}, "level = 1.0.*less than 1", id="level"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(wrong, said):
    with pytest.raises(EdgelibError, match=said) as caught:
        check(wrong, RobustnessGap)
    assert "\n" not in str(caught.value)


def test_twins_follow_the_grid_where_nothing_is_said():
    chosen = check({"configs": ["fp32", "w4a8-minmax"], "severities": [5, 2]}, RobustnessGap)
    assert (chosen.twin_configs, chosen.twin_severities) == (["w4a8-minmax"], [5])


def test_every_fault_is_listed_at_once():
    with pytest.raises(EdgelibError, match="level.*n_images"):
        check({"n_images": 0, "level": 2.0}, RobustnessGap)


def test_an_unknown_corruption_lists_the_known_ones():
    with pytest.raises(EdgelibError, match=r"unknown corruption 'fogg' \(did you mean 'fog'\?\); choose from .*fog"):
        check({"corruptions": ["fogg"]}, RobustnessGap)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(EdgelibError, match="w9a9-minmax"):
        check({"configs": ["fp32", "w9a9-minmax"]}, RobustnessGap)


@pytest.mark.parametrize("twin", ["weight", "weight:", "weight:0.5", "weight:nan", "weight:inf", "wait:8", ":8"])
def test_a_malformed_twin_is_refused(twin):
    with pytest.raises(EdgelibError):
        check({"twins": [twin]}, EmbeddedWorld)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({"seeds": 6, "fraction": 4}, "fraction = 4 of seeds = 6 .*divisor of seeds", id="uneven"),
        pytest.param({"seeds": 2, "fraction": 3}, "fraction = 3 of seeds = 2", id="more than seeds"),
        pytest.param(
            {"mixes": ["balanced", "dark"], "seeds": 3, "fraction": 3},
            "keeps 4 draws, .* needs 6; .* more seeds",
            id="few",
        ),
    ],
)
def test_a_fraction_that_cannot_be_analysed_is_refused(wrong, said):
    with pytest.raises(EdgelibError, match=said):
        check(wrong, CalibrationSensitivity)


def test_a_fraction_with_a_run_to_spare_is_taken():
    kept = {"mixes": ["balanced", "dark", "noise"], "sizes": [4, 8], "seeds": 6, "fraction": 3}  # 12 draws, 9 effects
    assert check(kept, CalibrationSensitivity).fraction == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param(
            {"mix": ["w4a8-minmax", "w4a8-gptq"]}, "mix = .*w4a8-gptq needs a calibration set", id="calibrated"
        ),
        pytest.param({"mix": ["w4a8-minmax", "fp16"]}, "fp16 casts the whole model", id="cast"),
        pytest.param(
            {"cost_of": "clip-vit-base-patch23"}, "cost_of = .*did you mean 'clip-vit-base-patch32'", id="name"
        ),
        pytest.param({"cost_of": "qwen2-0.5b"}, "qwen2-0.5b has no vision_model", id="no tower to cost"),
        pytest.param({"device_table": "nowhere.yaml"}, "cannot read the device table nowhere.yaml", id="no table"),
    ],
)
def test_what_a_sweep_would_only_meet_at_its_end_is_refused(wrong, said):
    with pytest.raises(EdgelibError, match=said):
        check(wrong, Pareto)


@pytest.mark.parametrize("schema", [Efficiency, Pareto], ids=["efficiency", "pareto"])
def test_a_device_table_is_found_in_the_checkout(tmp_path, monkeypatch, schema):
    for name in ("pyproject.toml", "edgelib/errors.py", "book/index.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = tmp_path / "mine.yaml"
    table.write_text("devices: {board: {name: Board, family: mine, bandwidth_gb_s: 50, rates: {fp16: 2}}}")
    monkeypatch.chdir(tmp_path / "book")
    chosen = check({"device_table": "mine.yaml", "devices": ["board"]}, schema)
    assert chosen.device_table == str(table)


def test_validate_without_begin_says_so():
    with pytest.raises(EdgelibError, match="begin"):
        validate({}, RobustnessGap)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("n_images: [", "not YAML", id="broken yaml"),
        pytest.param("- 1\n- 2", "must hold lines .name: value., got", id="a list"),
        pytest.param("n_imges: 3", "did you mean 'n_images'", id="typo"),
    ],
)
def test_a_bad_file_is_one_paragraph(tmp_path, text, said):
    file = tmp_path / "robustness_gap.yaml"
    file.write_text(text)
    with pytest.raises(EdgelibError, match=said) as caught:
        read(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_an_unknown_chapter_are_named(tmp_path):
    with pytest.raises(EdgelibError, match="no parameter file"):
        read(tmp_path / "robustness_gap.yaml")
    with pytest.raises(EdgelibError, match="unknown chapter 'gap'"):
        read(tmp_path / "gap.yaml")


def test_an_empty_file_keeps_the_defaults(tmp_path):
    file = tmp_path / "embedded_world.yaml"
    file.write_text("# nothing\n")
    assert read(file) == ("embedded_world", {})


def test_defaults_hold_against_their_own_rules():
    for schema in CHAPTERS.values():
        assert check(schema().model_dump(), schema) == schema()


LAYERS = {"preset": "w8a8-minmax", "exclude": ["visual_projection", "text_projection"]}
SPELT = "w8a8-minmax(exclude=text_projection,visual_projection)"


@pytest.mark.parametrize(
    ("chapter", "field", "rest"),
    [
        ("robustness_gap", "configs", ["fp32"]),
        ("robustness_gap", "baseline_configs", ["fp32"]),
        ("calibration_sensitivity", "ladder", ["w4a8-minmax"]),
        ("vlm_accuracy", "vision_configs", []),
        ("vlm_accuracy", "configs", ["bf16"]),
        ("efficiency", "configs", ["fp32"]),
        ("pareto", "configs", ["fp32"]),
        ("pareto", "mix", ["w4a8-minmax"]),
    ],
)
def test_a_scheme_may_be_a_mapping_of_its_fields(chapter, field, rest):
    own = {"robustness_gap": {"configs": ["fp32", LAYERS]}, "efficiency": {"architectures": ["clip-vit-base-patch32"]}}
    given = own.get(chapter, {}) | {field: [*rest, LAYERS]}
    assert getattr(CHAPTERS[chapter](**given), field) == [*rest, SPELT]


def test_mappings_mean_what_names_mean_and_faults_are_named():
    field = {"weight": "int8", "activation": "int8", "method": "minmax"}
    for wrong, said in (
        ([{"preset": "w8a8-minmax"}, "w8a8-minmax"], "named twice"),
        (["fp32", LAYERS, SPELT], "named twice"),
        (["w8a8-minmax", field], "named twice"),
        (["fp32", {"weigth": "int8"}], "did you mean 'weight'"),
        (["fp32", {"preset": 5}], "a name, a mapping"),
        (["fp32", {"preset": "w8a8-minmax", "exclude": 5}], "list of name patterns"),
        (["fp32", {"weight": ["int8"]}], "unknown weight format"),
        (["fp32", [1]], "valid string"),
    ):
        with pytest.raises(EdgelibError, match=said):
            check({"configs": wrong}, RobustnessGap)


def test_layers_that_an_architecture_lacks_are_refused_before_its_size_is_computed():
    with pytest.raises(EdgelibError, match="does not fit the architecture qwen2-vl-2b: pattern 'text_projection'"):
        check({"configs": ["fp32", LAYERS]}, CHAPTERS["efficiency"])
    with pytest.raises(EdgelibError, match="matches none"):
        check({"configs": ["fp32", "fp8(exclude=nothing)"]}, CHAPTERS["pareto"])


@pytest.mark.parametrize("chapter", ["embedded_world", "efficiency"])
def test_a_model_whose_kind_shows_only_when_it_is_loaded_names_the_chapter_that_takes_it(chapter, monkeypatch):
    from edgelib.models import load as loading
    from edgelib.models.generative import GenerativeModel

    monkeypatch.setattr(loading, "load", lambda *given, **named: GenerativeModel("owner/name", None, None))
    with pytest.raises(EdgelibError, match="owner/name writes answers.*vlm_accuracy and fp8_kv_ablation can take it"):
        CHAPTERS[chapter](model="owner/name").load_model()


def test_a_hub_id_that_was_fetched_is_of_the_kind_that_its_configuration_says(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "config.json").write_text(
        '{"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}'
    )
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    with pytest.raises(EdgelibError, match="owner/name writes answers"):
        check({"model": "owner/name"}, CHAPTERS["efficiency"])


def test_chapters_read_tables_of_known_chapters_and_in_no_circle():
    graph = {name: chapter.reads() for name, chapter in CHAPTERS.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(CHAPTERS) and order.index("pareto") < order.index("validation")


def test_images_that_are_seen_clean_only_are_others_in_every_plain_configuration():
    asked = {"n_images": 4, "configs": ["fp32", "w8a8-minmax"], "baseline_model": None, "twins": ["weight:8"]}
    chapter = CHAPTERS["robustness_gap"](**asked, n_clean_images=6)
    study = chapter.study()
    more = chapter.clean_study(study)
    assert len(study.data) == 4 and len(more.data) == 2 and not {*study.data.rows["item"]} & {*more.data.rows["item"]}
    assert [(v.twin, place.severity) for v, place in more.cells()] == [("plain", 0)] * 2
    assert CHAPTERS["robustness_gap"](**asked).clean_study(study) is None
    with pytest.raises(ValueError, match="n_clean_images = 3: the n_images = 4 .*give 4 or more"):
        CHAPTERS["robustness_gap"](**asked, n_clean_images=3)
