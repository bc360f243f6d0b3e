"""From a chapter's parameters to the study of answers that they ask for."""

from __future__ import annotations

from typing import Protocol

from edgelib.corruptions.condition import condition
from edgelib.data.calibration import calibration_set
from edgelib.data.datasets import dataset
from edgelib.data.questions import TASKS, QuestionSet
from edgelib.errors import EdgelibError
from edgelib.models.generative import GenerativeModel
from edgelib.models.load import load
from edgelib.models.twins import PLAIN
from edgelib.quant.scheme import scheme
from edgelib.study.answer_grid import NO_MIX, AnswerGrid, AnswerVariant, Place

TRANSLATION = "translation"  # the set of the sub-task text_translation alone
_SUB_TASK, _SUB_TASKS = "text_translation", 14


class AnswerParameters(Protocol):
    """The parameters that a study of answers is made from."""

    model: str
    vqa: str
    vqa_split: str
    n_vqa: int
    pope: str
    pope_split: str
    n_pope: int
    mme: str
    mme_split: str
    n_mme: int
    configs: list[str]
    vision_configs: list[str]
    twins: list[str]
    twin_configs: list[str]
    calibration: str
    calibration_source: str
    n_calibration: int
    translation_config: str
    translation_mixes: list[str]
    translation_draws: int
    n_translation: int
    conditions: list[str]
    corrupted_task: str
    table: str | None
    instruction: str
    max_new_tokens: int
    seed: int
    batch_size: int
    device: str
    local_files_only: bool


def draw_name(mix: str, draw: int) -> str:
    """What a calibration draw of the language experiment is called."""
    return f"{mix} #{draw}"


def answer_grid_of(p: AnswerParameters) -> AnswerGrid:
    """Load what the parameters name and lay out the cells.

    The plain model in every configuration answers all three benchmarks, and one of them about corrupted images; twins
    answer VQA; the language experiment answers the translation questions of MME, on the plain model and on each twin.
    Calibration questions come from training splits, or from images that are not scored. Raises EdgelibError for
    whatever cannot be loaded.
    """
    model = load(p.model, device=p.device, offline=p.local_files_only)
    if not isinstance(model, GenerativeModel):
        raise EdgelibError(f"{p.model} classifies images; answers need a model that writes, such as scenes-vlm")
    sets = {task: _questions(p, task, getattr(p, f"n_{task}")) for task in TASKS}
    sets[TRANSLATION] = _translations(p)
    variants = [_variant(PLAIN, config, p.calibration) for config in (*p.configs, *p.vision_configs)]
    cells = [(v, Place(task)) for v in variants for task in TASKS]
    cells += [(v, Place(p.corrupted_task, condition(name))) for v in variants for name in p.conditions]
    for twin in p.twins:
        cells += [(_variant(twin, c, p.calibration), Place("vqa")) for c in (p.configs[0], *p.twin_configs)]
    draws = [(mix, draw) for mix in p.translation_mixes for draw in range(p.translation_draws)]
    for twin in (PLAIN, *p.twins):
        asked = [AnswerVariant(twin, p.translation_config, draw_name(*draw)) for draw in draws]
        cells += [(v, Place(TRANSLATION)) for v in (_variant(twin, p.configs[0], p.calibration), *asked)]
    return AnswerGrid(
        model=model,
        asked=tuple(dict.fromkeys(cells)),
        sets=sets,
        calibrations=_calibrations(p, sets, draws),
        seed=p.seed,
        table=p.table,
        instruction=p.instruction,
        max_new_tokens=p.max_new_tokens,
        batch_size=p.batch_size,
    )


def _variant(twin: str, config: str, mix: str) -> AnswerVariant:
    return AnswerVariant(twin, config, mix if scheme(config).needs_calibration else NO_MIX)


def _questions(p: AnswerParameters, task: str, n: int) -> QuestionSet:
    name, split = getattr(p, task), getattr(p, f"{task}_split")
    found = dataset(name, split, n, p.seed, offline=p.local_files_only)
    if not isinstance(found, QuestionSet) or found.task != task:
        what = f"questions of {found.task}" if isinstance(found, QuestionSet) else "labelled images"
        raise EdgelibError(f"{task}={name!r} holds {what}; name a set with the columns of {task}, or scenes-{task}")
    return found


def _translations(p: AnswerParameters) -> QuestionSet:
    """The translation questions among the images of all sub-tasks, which take turns in a draw."""
    found = _questions(p, "mme", _SUB_TASKS * p.n_translation)
    own = (found.rows["category"] == _SUB_TASK).to_numpy().nonzero()[0]
    if not len(own):
        raise EdgelibError(f"mme={p.mme!r} has no questions of the sub-task {_SUB_TASK}; name a complete set")
    return found.subset(own)


def _calibrations(p: AnswerParameters, sets: dict[str, QuestionSet], draws) -> dict[str, QuestionSet]:
    source, offline = p.calibration_source, p.local_files_only
    made = {
        p.calibration: calibration_set(
            p.calibration, p.n_calibration, p.seed, getattr(p, source), exclude=sets[source], offline=offline
        )
    }
    for mix, draw in draws:
        made[draw_name(mix, draw)] = calibration_set(
            mix, p.n_calibration, draw, p.mme, exclude=sets[TRANSLATION], offline=offline
        )
    return made
