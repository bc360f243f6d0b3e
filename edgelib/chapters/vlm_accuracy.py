"""The chapter `vlm_accuracy`: what quantization costs a model that writes, in three kinds of questions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from edgelib.chapters.schema.base import Answers, Questions, kinds
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Columns,
    Conditions,
    Config,
    Configs,
    Mixes,
    Name,
    Prose,
    SeverityTable,
    SomeConfigs,
    Source,
    TablePath,
    Twins,
    at_least_two,
    distinct,
    each,
    one,
    scheme_of,
)
from edgelib.chapters.schema.present import Draw
from edgelib.errors import EdgelibError, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

    from edgelib.data.questions import QuestionSet
    from edgelib.study.answer_grid import AnswerGrid, AnswerVariant

ASKED = kinds.ASKED
TRANSLATION = "translation"  # the set of the sub-task text_translation alone


def draw_name(mix: str, draw: int) -> str:
    """What a calibration draw of the language experiment is called."""
    return f"{mix} #{draw}"


def _benchmark(task: str) -> None:
    from edgelib.tasks.benchmarks import TASKS

    choose({name: None for name in TASKS if name not in ASKED}, task, "further benchmark")


def _calibrated(config: str) -> None:
    if not scheme_of(config).needs_calibration:
        raise EdgelibError(f"{config} needs no calibration set, so the language of one cannot matter; take another")


class VlmAccuracy(Answers):
    """Parameters of the chapter `vlm_accuracy`."""

    vqa: Questions = Field("scenes-vqa", description="questions in the columns of lmms-lab/VQAv2")
    vqa_split: Name = Field("test", description="split of the VQA questions")
    n_vqa: int = Field(12, ge=2, le=MOST_ITEMS, description="VQA images, each with all of its questions")
    pope: Questions = Field("scenes-pope", description="questions in the columns of lmms-lab/POPE")
    pope_split: Name = Field("test", description="split of the POPE questions")
    n_pope: int = Field(8, ge=2, le=MOST_ITEMS, description="POPE images, each with all of its questions")
    mme: Questions = Field("scenes-mme", description="questions in the columns of lmms-lab/MME")
    mme_split: Name = Field("test", description="split of the MME questions")
    n_mme: int = Field(28, ge=2, le=MOST_ITEMS, description="MME images, spread over the sub-tasks")
    more: Annotated[dict[Name, Name], each(_benchmark), Source()] = Field(
        {}, description='further benchmarks as "task: data set", such as {textvqa: lmms-lab/textvqa}'
    )
    more_split: Name = Field("validation", description="split of the further benchmarks")
    n_more: int = Field(
        24, ge=2, le=MOST_ITEMS, description="images of each further benchmark, with all of their questions"
    )
    columns: dict[Name, Columns] = Field(
        {}, description="column names of a benchmark, as in {vqa: {question: q, answers: gt, image: path}}"
    )
    images: Annotated[dict[Name, Name], Source()] = Field(
        {}, description="folder of a benchmark's image files, where it lies apart, as in {pope: ./val2014}"
    )
    configs: Annotated[Configs, at_least_two("configurations: the reference, and one to compare with it")] = Field(
        ["bf16", "w8a16", "w4a16", "w4a16-awq", "nvfp4"],
        description="configurations of the decoder: the reference first, then at least one to compare with it",
    )
    vision_configs: SomeConfigs = Field(
        ["w8a8-smoothquant-vision"], description="configurations that round the vision tower too"
    )
    twins: Annotated[Twins, Field(min_length=1)] = Field(
        ["weight:16"], description='planted outliers as "kind:strength", beside the plain model'
    )
    twin_configs: Configs = Field(["w4a16", "w4a16-awq"], description="configurations evaluated on the twins")
    calibration_source: Literal["vqa", "pope", "mme"] = Field("vqa", description="whose questions calibrate")
    translation_config: Annotated[Config, one(_calibrated)] = Field(
        "w4a16-awq", description="configuration of the language experiment"
    )
    translation_mixes: Annotated[Mixes, Field(min_length=2, max_length=2)] = Field(
        ["english", "balanced"], description="calibration mixes that are compared: one language, and both"
    )
    translation_draws: int = Field(1, ge=1, le=100, description="calibration draws of each mix, seeds 0, 1, ...")
    n_translation: int = Field(8, ge=2, le=MOST_ITEMS, description="images of the translation sub-task of MME")
    conditions: Conditions = Field(["fog:3"], description='conditions such as "fog:3"')
    corrupted_task: Literal["vqa", "pope", "mme"] = Field("pope", description="questions asked about corrupted images")
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")
    instruction: Prose | None = Field(
        None, description="a line after each question, as real models want to be asked; null: the benchmark's own"
    )
    max_new_tokens: int = Field(8, ge=1, le=4096, description="longest answer, in tokens")
    real_decoder: TablePath | None = Field(
        None,
        description="differences.csv of this chapter on a model with a real decoder: what loses there is not advised",
    )

    @field_validator("real_decoder")
    @classmethod
    def _of_this_chapter(cls, table: str | None) -> str | None:
        if table is not None:
            _differences(table)
        return table

    @model_validator(mode="after")
    def _enough_images(self) -> VlmAccuracy:
        from edgelib.tasks.benchmarks import TASKS

        for task in self.asked:
            field = f"n_{task}" if task in ASKED else "n_more"
            if getattr(self, field) < TASKS[task].fewest_images:
                least = TASKS[task].fewest_images
                raise EdgelibError(f"{field} must be at least {least} for {task}, got {getattr(self, field)}")
        return self

    @model_validator(mode="after")
    def _own_questions(self) -> VlmAccuracy:
        from edgelib.data.scenes.sets import QUESTIONS

        for task in ASKED:
            name = getattr(self, task)
            if name in QUESTIONS and name != f"scenes-{task}":
                raise _other_questions(task, name, name.removeprefix("scenes-"))
        return self

    @model_validator(mode="after")
    def _named_benchmarks(self) -> VlmAccuracy:
        for field in ("columns", "images"):
            for task in getattr(self, field):
                choose(dict.fromkeys(self.asked), task, f"benchmark in {field}")
        return self

    @field_validator("vision_configs")
    @classmethod
    def _beside_the_others(cls, names: list[str], info) -> list[str]:
        distinct([*info.data.get("configs", []), *names])
        return names

    def reading(self, task: str) -> dict[str, Any]:
        """How the data set of a benchmark is read, as `dataset` and `calibration_set` take it."""
        named = {"columns": self.columns.get(task), "images": self.images.get(task)}
        return {"offline": self.local_files_only, **named}

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The questions of every benchmark, and those of the language experiment."""
        own = {task: (getattr(self, task), getattr(self, f"n_{task}")) for task in ASKED}
        named = own | {task: (name, self.n_more) for task, name in self.more.items()}
        sets: dict[str, tuple[str, Callable[[], Any]]] = {
            task: (name, partial(_questions, self, task, n)) for task, (name, n) in named.items()
        }
        return sets | {TRANSLATION: (self.mme, partial(_translations, self))}

    def draws(self) -> Iterable[Draw]:
        """The calibration set of every configuration, and those of the language experiment."""
        source = self.calibration_source
        yield Draw(source, self.calibration, self.n_calibration, getattr(self, source), self.reading(source))
        for mix in self.translation_mixes:
            yield Draw(TRANSLATION, mix, self.n_calibration, self.mme, self.reading("mme"))

    def real_differences(self) -> pd.DataFrame | None:
        """What `real_decoder` says, a row per benchmark and configuration: task, config, effect, low, high, p_holm."""
        return None if self.real_decoder is None else _differences(self.real_decoder)

    @property
    def asked(self) -> tuple[str, ...]:
        """The benchmarks that every configuration answers."""
        return (*ASKED, *self.more)

    def study(self) -> AnswerGrid:
        """Load what the parameters name and lay out the cells.

        The plain model in every configuration answers all benchmarks, and one of them about corrupted images;
        twins answer VQA; the language experiment answers the translation questions of MME, on the plain model and on
        each twin. Calibration questions come from training splits, or from images that are not scored. Raises
        EdgelibError for whatever cannot be loaded.
        """
        from edgelib.corruptions.condition import condition
        from edgelib.models.twins import PLAIN
        from edgelib.study.answer_grid import AnswerGrid, AnswerVariant, Place

        model = self.load_model()
        sets = {task: _questions(self, task, getattr(self, f"n_{task}")) for task in ASKED}
        sets |= {task: _questions(self, task, self.n_more) for task in self.more}
        sets[TRANSLATION] = _translations(self)
        used = [*self.configs, *self.vision_configs, *self.twin_configs, self.translation_config]
        kinds.check_parts(model, used, self.twins, self.seed)
        variants = [_variant(PLAIN, config, self.calibration) for config in (*self.configs, *self.vision_configs)]
        cells = [(v, Place(task)) for v in variants for task in self.asked]
        cells += [(v, Place(self.corrupted_task, condition(name))) for v in variants for name in self.conditions]
        for twin in self.twins:
            cells += [
                (_variant(twin, c, self.calibration), Place("vqa")) for c in (self.configs[0], *self.twin_configs)
            ]
        draws = [(mix, draw) for mix in self.translation_mixes for draw in range(self.translation_draws)]
        for twin in (PLAIN, *self.twins):
            asked = [AnswerVariant(twin, self.translation_config, draw_name(*draw)) for draw in draws]
            reference = _variant(twin, self.configs[0], self.calibration)
            cells += [(v, Place(TRANSLATION)) for v in (reference, *asked)]
        return AnswerGrid(
            model=model,
            asked=tuple(dict.fromkeys(cells)),
            sets=sets,
            calibrations=_calibrations(self, sets, draws),
            seed=self.seed,
            table=self.table,
            instruction=self.instruction,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )


def _variant(twin: str, config: str, mix: str) -> AnswerVariant:
    from edgelib.study.answer_grid import NO_MIX, AnswerVariant

    return AnswerVariant(twin, config, mix if scheme_of(config).needs_calibration else NO_MIX)


def _questions(p: VlmAccuracy, task: str, n: int) -> QuestionSet:
    from edgelib.data.datasets import dataset

    name, split = (p.more[task], p.more_split) if task in p.more else (getattr(p, task), getattr(p, f"{task}_split"))
    questions = kinds.questions(dataset(name, split, n, p.seed, **p.reading(task)), f"{task}={name!r}")
    if questions.task.name != task:
        raise _other_questions(task, name, questions.task.name)
    return questions


def _differences(table: str) -> pd.DataFrame:
    from pathlib import Path

    from edgelib.devices.measurements import Number, read_columns

    points, chance = Number(-1e4, 1e4, lacks=True), Number(0, 1, lacks=True)
    ends = dict.fromkeys(("effect", "low", "high"), points)
    found = read_columns(Path(table), {"task": None, "config": None, **ends, "p_holm": chance})
    for config in found["config"]:
        scheme_of(config)
    return found


def _other_questions(task: str, name: str, found: str) -> EdgelibError:
    return EdgelibError(
        f"{task}={name!r} holds questions of {found}, which "
        + (f"the parameter {found} takes" if found in ASKED else f"more takes, as {{{found}: {name}}}")
        + f"; name a set of {task} here, or {name}:{task} where a folder holds the files of both"
    )


def _translations(p: VlmAccuracy) -> QuestionSet:
    """The translation questions among the images of all sub-tasks, which take turns in a draw."""
    from edgelib.tasks import mme

    questions = _questions(p, "mme", len(mme.SUB_TASKS) * p.n_translation)
    positions = (questions.rows["category"] == mme.TRANSLATION).to_numpy().nonzero()[0]
    if not len(positions):
        raise EdgelibError(f"mme={p.mme!r} has no questions of the sub-task {mme.TRANSLATION}; name a complete set")
    return questions.subset(positions)


def _calibrations(p: VlmAccuracy, sets: dict[str, QuestionSet], draws: list[tuple[str, int]]) -> dict[str, QuestionSet]:
    from edgelib.data.calibration import calibration_set

    source = p.calibration_source
    made: dict[str, Any] = {
        p.calibration: calibration_set(
            p.calibration, p.n_calibration, p.seed, getattr(p, source), exclude=sets[source], **p.reading(source)
        )
    }
    for mix, draw in draws:
        made[draw_name(mix, draw)] = calibration_set(
            mix, p.n_calibration, draw, p.mme, exclude=sets[TRANSLATION], **p.reading("mme")
        )
    return made
