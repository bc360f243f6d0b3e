"""What a chapter's parameters allow, its statistics can do: nothing fails after the models have run."""

from __future__ import annotations

import gc
import itertools
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import vlm_folders
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official import write_vqa
from PIL import Image
from typer.testing import CliRunner

from edgelib.chapters.calibration_sensitivity import CalibrationSensitivity
from edgelib.chapters.edge_engines import EdgeEngines
from edgelib.chapters.efficiency import Efficiency
from edgelib.chapters.fp8_kv_ablation import Fp8KvAblation, games
from edgelib.chapters.params import check
from edgelib.chapters.pareto import Pareto
from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.schema import kinds
from edgelib.chapters.table import CHAPTERS
from edgelib.chapters.vlm_accuracy import VlmAccuracy
from edgelib.cli import app
from edgelib.data.datasets import dataset
from edgelib.errors import EdgelibError
from edgelib.models.load import load
from edgelib.models.twins import PLAIN
from edgelib.report.tables import interval, selected
from edgelib.stats.gap import gap_table, robustness_gaps, rs_table
from edgelib.stats.ladder import attribute, recoveries
from edgelib.stats.predictor import drop_predictor
from edgelib.stats.ranks import rank_stability, rank_table, run_scores
from edgelib.stats.recommend import recommend
from edgelib.stats.variance import _terms, variance_shares

MIXES = ["balanced", "noise", "gray", "dark", "clean"]
few = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEVELS = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@pytest.fixture(autouse=True)
def cheap_garbage():
    """Holm's correction collects garbage at each call (statsmodels), which takes long over many modules."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    ("chapter", "values", "said"),
    [
        (CalibrationSensitivity, {"n_bootstrap": 100}, "n_bootstrap"),
        (CalibrationSensitivity, {"configs": ["w4a8-awq", "w4a8-gptq"], "twins": []}, "needs 3"),
        (CalibrationSensitivity, {"mixes": ["balanced"]}, "at least 2 mixes"),
        (CalibrationSensitivity, {"sizes": [8]}, "sizes"),
        (CalibrationSensitivity, {"seeds": 1}, "seeds"),
        (CalibrationSensitivity, {"ladder": ["w4a8-minmax"]}, "at least 2"),
        (CalibrationSensitivity, {"seeds": 2, "fraction": 2}, "telling their effects"),
        (Efficiency, {"measurements": "/nowhere/at/all"}, "/nowhere/at/all"),
        (Efficiency, {"device_table": "/nowhere.yaml"}, "/nowhere.yaml"),
        (Pareto, {"cost_of": None, "model": "scenes-vit"}, "cost_of"),
        (Pareto, {"n_bootstrap": 99}, "n_bootstrap"),
        (Pareto, {"mix": ["w4a16-minmax-g48", "w8a16"]}, "w4a16-minmax-g48 does not fit scenes-clip"),
        (Pareto, {"configs": ["fp32", "w4a16-minmax-g48"], "model": "nowhere"}, "does not fit the architecture clip"),
        (Efficiency, {"configs": ["fp32", "w4a16-minmax-g48"]}, "w4a16-minmax-g48 does not fit the architecture"),
        (RobustnessGap, {"configs": ["fp32", "w4a8-minmax-g48"]}, "w4a8-minmax-g48 does not fit scenes-clip: layer"),
        (Pareto, {"device_table": "/nowhere.yaml"}, "/nowhere.yaml"),
        (RobustnessGap, {"configs": ["fp32"]}, "at least 2"),
        (VlmAccuracy, {"max_new_tokens": 4096}, "max_new_tokens = 4096: scenes-vlm reads and writes"),
        (RobustnessGap, {"twins": ["key-offset:8"]}, "key-offset:8 is of the decoder of a model that writes"),
        (Fp8KvAblation, {"n_images": 3}, "n_images"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)  # fmt: skip
def test_what_cannot_end_well_is_refused_before_any_work(chapter, values, said):
    with pytest.raises(EdgelibError, match=said):
        check(values, chapter)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Models and data that lie on this machine, each with something that no run could end well with."""
    root = tmp_path_factory.mktemp("here")
    vlm_folders.clip(root / "clip")
    for name, file in (("no-weights", "model.safetensors"), ("no-tokenizer", "tokenizer.json"), ("quantized", None)):
        shutil.copytree(root / "clip", root / name)
        if file is None:
            (root / name / "quantize_config.json").write_text("{}")
        else:
            (root / name / file).unlink()
    write_vqa(root / "vqa", dataset("scenes-vqa", n=4))
    write_vqa(root / "train", dataset("scenes-vqa", n=4))
    for kind in ("questions", "annotations"):  # of images that were not downloaded
        [file] = (root / "train").glob(f"*_{kind}.json")
        text = file.read_text().replace('"image_id": ', '"image_id": 9')
        file.with_name(file.name.replace("val2014", "train2014")).write_text(text)
    write_vqa(root / "blind", dataset("scenes-vqa", n=2), images=None)
    for name in ("ant/0", "ant/1", "bee/0", "bee/1"):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "photos" / f"{name}.png")
    shutil.copytree(root / "photos" / "ant", root / "one" / "ant")
    (root / "file").write_text("")
    return root


@pytest.mark.parametrize(
    ("chapter", "values", "said"),
    [
        (RobustnessGap, {"model": "{}/nothing"}, "neither an embedded model"),
        (RobustnessGap, {"model": "x" * 300}, "neither an embedded model"),
        (RobustnessGap, {"dataset": "x" * 300}, "unknown data set"),
        (RobustnessGap, {"model": "{}/no-weights"}, "it has no weights"),
        (RobustnessGap, {"model": "{}/no-tokenizer"}, "has no tokenizer"),
        (CalibrationSensitivity, {"model": "{}/quantized"}, "is quantized already"),
        (Efficiency, {"model": "{}/photos"}, "config.json"),
        (RobustnessGap, {"dataset": "{}/nothing"}, "does not exist: there is no 'nothing'"),
        (RobustnessGap, {"dataset": "scens"}, "did you mean 'scenes'"),
        (Pareto, {"dataset": "{}/photos", "n_images": 5}, "has 4; ask for at most 4"),
        (RobustnessGap, {"dataset": "{}/photos", "n_images": 4, "split": "fog:3"}, "has no split 'fog:3'"),
        (RobustnessGap, {"dataset": "{}/one", "n_images": 2}, "holds one class, 'ant'"),
        (VlmAccuracy, {"pope": "{}/vqa", "pope_split": "validation", "n_pope": 2}, "holds questions of vqa"),
        (VlmAccuracy, {"vqa": "{}/vqa", "vqa_split": "validation", "n_vqa": 9}, "has 4; ask for at most 4"),
        (VlmAccuracy, {"vqa": "{}/blind", "vqa_split": "validation", "n_vqa": 2}, "no folder with the images"),
        (VlmAccuracy, {"more": {"exact": "{}/file.csv"}}, "there is no 'file.csv'"),
        (Fp8KvAblation, {"dataset": "{}/vqa"}, "has no split 'test'"),
        (EdgeEngines, {"questions": "{}/photos", "n_images": 2}, "holds labelled images"),
        (RobustnessGap, {"results": "{}/file/results"}, "file is no folder"),
        (RobustnessGap, {"device": "cuda:99"}, "there is no device 'cuda:99' on this machine"),
        (RobustnessGap, {"model": "nobody/clip", "local_files_only": True}, "'nobody/clip' is not in the local cache"),
        (
            RobustnessGap,
            {"dataset": "nobody/set", "local_files_only": True},
            "could not be loaded from the local cache",
        ),
        (
            Pareto,
            {"dataset": "{}/photos", "n_images": 3, "n_calibration": 2},
            "n=2 calibration images .* has 1 outside",
        ),
        (Pareto, {"dataset": "{}/photos", "n_images": 3, "n_calibration": 1, "n_sensitivity": 8}, "n=8 calibr"),
        (
            CalibrationSensitivity,
            {"dataset": "{}/photos", "n_images": 2, "ladder_size": 1, "sizes": [1, 9]},
            "n=9 calibration images were asked of 'photos', whose split 'test' has 2 outside",
        ),
        (
            CalibrationSensitivity,
            {
                "dataset": "{}/photos",
                "n_images": 2,
                "ladder_size": 1,
                "sizes": [1, 2],
                "mixes": ["clean", "single-class:x"],
            },
            "has no class 'x'; classes: ant, bee",
        ),
        (VlmAccuracy, {"vqa": "{}/vqa", "vqa_split": "validation", "n_vqa": 4}, "has 0 for 'balanced' outside 'vqa'"),
        (
            VlmAccuracy,
            {"vqa": "{}/train", "vqa_split": "validation", "n_vqa": 4},
            "Calibration reads the split 'train'",
        ),
        (Fp8KvAblation, {"calibration": "single-class"}, "is of classes, and questions have none"),
        (EdgeEngines, {"calibration_source": "{}/nothing"}, "does not exist: there is no 'nothing'"),
        (Efficiency, {"dataset": "{}/photos", "n_images": 9}, "has 4; ask for at most 4"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
def test_what_is_named_on_this_machine_is_looked_at_before_any_work(chapter, values, said, here):
    file = here / "asked.yaml"
    file.write_text(yaml.safe_dump(values).replace("{}", str(here)))
    name = next(name for name, schema in CHAPTERS.items() if schema is chapter)
    done = CliRunner().invoke(app, ["check", str(file), "--chapter", name])
    assert done.exit_code == 1 and re.search(said, done.stderr), done.stderr or done.exception
    assert len(done.stderr.splitlines()) == 1


def test_what_is_named_and_whole_passes_and_a_hub_id_waits(here):
    RobustnessGap(
        model=str(here / "clip"),
        dataset=str(here / "photos"),
        n_images=4,
        baseline_model=None,
        results=str(here / "new"),
    ).look()
    RobustnessGap(model="openai/clip-vit-base-patch32", dataset="uoft-cs/cifar10").look()
    VlmAccuracy(vqa=f"{here / 'vqa'}:vqa", vqa_split="validation", n_vqa=2, n_calibration=2).look()
    assert not (here / "new").exists()


def test_times_of_another_model_than_the_one_that_costs_are_refused_before_any_work():
    published = "edgelib/devices/measured/epyc-2-cores"
    with pytest.raises(EdgelibError, match="have no scenes-clip one image at a time, but clip-vit-base-patch32"):
        Pareto(cost_of=None, measurements=published).study()
    assert Pareto(measurements=published, n_images=2).study().cells()


def test_every_design_that_is_allowed_tells_its_factors_apart():
    tried = 0
    for mixes, sizes, seeds in itertools.product((2, 3, 5), (2, 3), (2, 3, 4, 6)):
        for fraction in (f for f in range(1, seeds + 1) if seeds % f == 0):
            asked = {"mixes": MIXES[:mixes], "sizes": [8, 16, 32][:sizes], "seeds": seeds, "fraction": fraction}
            try:
                design = CalibrationSensitivity(**asked).design()
            except ValueError:
                continue
            _terms(pd.DataFrame(map(vars, design)), ["mix", "size", "seed"])
            tried += 1
    assert tried > 30


def test_a_term_that_explains_nothing_has_an_interval_down_to_zero():
    runs = pd.MultiIndex.from_product([MIXES[:2], [8, 16], range(2)], names=["mix", "size", "seed"]).to_frame(
        index=False
    )
    shares = variance_shares(runs.assign(drift=runs["size"]), "drift", item=None, n_draws=100).set_index("component")
    assert shares.low.loc[["mix", "seed"]].eq(0).all() and shares.share["size"] == pytest.approx(1)
    assert np.isfinite(shares[["share", "low", "high"]]).all(axis=None)


@st.composite
def calibrations(draw) -> CalibrationSensitivity:
    seeds = draw(st.integers(2, 4))
    return CalibrationSensitivity(
        mixes=MIXES[: draw(st.integers(2, 3))],
        sizes=[8, 16, 32][: draw(st.integers(2, 3))],
        seeds=seeds,
        configs=["w8a8-minmax-static", "w4a8-awq", "w4a8-gptq"][: draw(st.integers(2, 3))],
        twins=["weight:8", "activation:8"][: draw(st.integers(1, 2))],
        n_bootstrap=101,
        level=draw(LEVELS),
        margin=draw(st.sampled_from([0.001, 0.02, 0.9])),
    )


@few
@given(calibrations(), st.integers(2, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_calibration_statistics_take_whatever_is_allowed(p, images, share):
    rng = np.random.default_rng(len(p.mixes) + images)
    runs = pd.DataFrame(map(vars, p.design())).merge(pd.DataFrame({"config": p.configs}), "cross")
    runs = runs.merge(pd.DataFrame({"twin": [PLAIN, *p.twins]}), "cross")
    rows = runs.merge(pd.DataFrame({"item": range(images)}), "cross")
    rows = rows.assign(image=rows["item"], correct=(rng.random(len(rows)) < share).astype(float), drift=rows["size"])
    how = {"level": p.level, "seed": p.seed}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quantity in ("correct", "drift"):
            of = {"by": ["twin", "config"], "cluster": "image", "n_draws": p.n_bootstrap}
            shares = variance_shares(rows, quantity, **of, **how)
            assert set(shares.twin) == {PLAIN, *p.twins} and (shares.share.isna() | shares.share.between(0, 1)).all()
        for _, part in rows.groupby("twin"):
            assert rank_stability(run_scores(part), n_boot=p.n_bootstrap, **how).n_configs == len(p.configs)
            ranks = rank_table(part, cluster="image", n_boot=p.n_bootstrap, **how)
            assert ranks.p_first.sum() == pytest.approx(1) and set(ranks.config) == set(p.configs)
            draws = part.groupby(["config", "mix", "size", "item"]).cumcount().astype(str)
            order = {"size": None, "config": p.configs}
            repeated = part.assign(run=part["mix"] + draws)
            taken = recommend(repeated, order, margin=p.margin, run="run", cluster="image")
            assert (taken.choice is not None) == bool(taken.table.passes.any())
        known = rows.groupby(["twin", "config", "mix", "size", "seed"]).agg(
            drop=("correct", "mean"), drift=("drift", "mean")
        )
        known = known.reset_index().assign(pair=lambda t: t.twin + t.config)
        often = {"n_boot": p.n_bootstrap, "n_permutations": p.n_bootstrap - 1}
        fitted = drop_predictor(known, ["drift"], "drop", "pair", **often, **how)
        assert fitted.n == len(known) and 0 < fitted.p <= 1


@few
@given(LEVELS, st.integers(2, 5), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.1, 0.5]))
def test_statistics_of_gaps_take_whatever_is_allowed(level, images, share, chance):
    p = RobustnessGap(n_images=images, level=level, n_bootstrap=100, twins=[], configs=["fp32", "w4a8-minmax"])
    rng = np.random.default_rng(images)
    cells = [("clean", 0), *itertools.product(p.corruptions, p.severities)]
    keys = pd.MultiIndex.from_product([p.configs, cells, range(images)], names=["config", "cell", "item"])
    rows = keys.to_frame(index=False)
    rows = rows.assign(corruption=rows.cell.str[0], severity=rows.cell.str[1], correct=rng.random(len(rows)) < share)
    boot = {"n_boot": p.n_bootstrap, "level": p.level, "seed": p.seed}
    rows = rows.astype({"correct": float})
    robustness_gaps(rows, p.configs[1:], p.configs[0], chance, **boot)
    gap_table(rows, p.configs[0], chance, **boot)
    shown, _ = selected(rs_table(rows, chance, **boot), {"RS": interval("rs"), "Retention": interval("retention")})
    assert not shown.map(lambda cell: "nan" in cell or "inf" in cell).any(axis=None)


@few
@given(LEVELS, st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.001, 0.01, 0.99]))
def test_statistics_of_caches_take_whatever_is_allowed(level, questions, share, margin):
    p = Fp8KvAblation(level=level, margin=margin, n_bootstrap=100)
    rng = np.random.default_rng(questions)
    for cells in games(p.format).values():
        outcomes = {factors: (rng.random(4 * questions) < share).astype(float) for factors in cells}
        images = np.repeat(range(4), questions)
        found = attribute(outcomes, max(cells, key=len), n_boot=p.n_bootstrap, cluster=images, level=level, seed=p.seed)
        assert sum(part.effect for part in found.parts.values()) == pytest.approx(found.total.effect, abs=1e-12)
    settings = {cache: (rng.random(4 * questions) < share).astype(float) for cache in p.fixes}
    recovered = recoveries(settings, outcomes[()], p.margin, cluster=images, seed=p.seed)
    assert set(recovered) == set(p.fixes) and all(0 <= r.adjusted <= 1 for r in recovered.values())


@pytest.mark.parametrize(
    "family",
    [vlm_folders.clip, vlm_folders.siglip, vlm_folders.qwen2_vl, vlm_folders.qwen3_vl_moe, vlm_folders.florence2],
    ids=lambda f: f.__name__,
)
def test_shapes_alone_refuse_what_the_loaded_model_would(family, tmp_path):
    model = load(family(tmp_path))
    for config in ("w4a16-minmax-g16", "w4a16-minmax-g48", "w8a8-minmax-vision"):
        said = []
        for refuse in (lambda c: kinds.refuse_unfit(str(tmp_path), [c]), lambda c: kinds.check_parts(model, [c], [])):
            try:
                said.append(refuse(config))
            except EdgelibError as error:
                said.append(str(error).replace(str(tmp_path), model.name))
        assert said[0] == said[1] and (said[0] is not None or "48" not in config)
