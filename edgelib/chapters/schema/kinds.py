"""Kinds of models and data sets: which chapter takes which, told from names before work and from what was loaded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelib.chapters.schema.fields import is_particular, scheme_of
from edgelib.errors import EdgelibError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgelib.data.labelled import Dataset
    from edgelib.data.questions import QuestionSet
    from edgelib.models.generative import GenerativeModel
    from edgelib.models.zero_shot import ZeroShotModel

WRITES = (
    "writes answers, but a classifier of images is wanted here; the chapters edge_engines, vlm_accuracy and "
    "fp8_kv_ablation"
)
CLASSIFIES = (
    "classifies images, but a model that writes answers is wanted here; the chapters robustness_gap, "
    "calibration_sensitivity, pareto, efficiency and embedded_world"
)
ASKED = ("vqa", "pope", "mme")  # the benchmarks that every study of answers asks, each a parameter
ASKS = (
    "holds questions{}, but labelled images are wanted here; the chapters edge_engines (parameter questions), "
    "vlm_accuracy and fp8_kv_ablation (parameters {} and dataset)"
)
LABELS = (
    "holds labelled images, but questions are wanted here; the chapters robustness_gap, calibration_sensitivity and "
    "pareto"
)
NO_TIMM = (
    "is no supervised classifier, but a timm model such as scenes-vit is wanted here, or null; the parameter model"
)


def _kind(name: str) -> str | None:
    """ "writes", "dual" or "timm" of a model on this machine; None where that shows only when it is loaded."""
    from edgelib.models.families.duals import dual_encoder
    from edgelib.models.families.writers import loader_of
    from edgelib.models.preprocess import read_object

    path = _configuration(name)
    try:
        config = {} if path is None else read_object(path)
    except EdgelibError:
        return None
    if path is None or "architecture" in config:
        return "timm" if config else None
    dual = dual_encoder(config.get("model_type"), config.get("architectures"))
    return "dual" if dual is not None else loader_of(config) and "writes"


def _configuration(name: str) -> Path | None:
    """Where the configuration of a model lies on this machine; None where it does not."""
    from edgelib.models.load import EMBEDDED

    paths = (EMBEDDED / name / "config.json", os.path.join(os.path.expanduser(name), "config.json"), _cached(name))
    return next((Path(path) for path in paths if path is not None and os.path.isfile(path)), None)


def _cached(name: str) -> str | None:
    """Where the configuration of a hub id lies that was fetched before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no hub id
        return None
    return found if isinstance(found, str) else None


def name_of_classifier(name: str) -> None:
    """Refuse the name of a model that writes."""
    _refuse(name, WRITES, _kind(name) == "writes")


def name_of_supervised(name: str) -> None:
    """Refuse the name of a model that is not a timm classifier."""
    _refuse(name, WRITES, _kind(name) == "writes")
    _refuse(name, NO_TIMM, _kind(name) == "dual")


def is_supervised(name: str) -> bool:
    """Whether the name of a model tells that it is a timm classifier, before it is loaded."""
    return _kind(name) == "timm"


def name_of_writer(name: str) -> None:
    """Refuse the name of a model that classifies images."""
    _refuse(name, CLASSIFIES, _kind(name) in ("dual", "timm"))


def name_of_labels(name: str) -> None:
    """Refuse the name of a generated set of questions, and a folder of questions as they are downloaded."""
    from edgelib.data.readers.sources import LABELS as LABELLED
    from edgelib.data.scenes.sets import QUESTIONS

    if name in QUESTIONS:
        _refuse(name, _asks(name.removeprefix("scenes-")), True)
    kind, looks_like = _held(name)
    if kind not in (None, LABELLED):
        _refuse(name, _asks(kind, looks_like), True)


def name_of_questions(name: str) -> None:
    """Refuse the name of a generated set of labelled images, and a folder of them as they are downloaded."""
    from edgelib.data.readers.sources import LABELS as LABELLED
    from edgelib.data.scenes.sets import GENERATED, QUESTIONS

    _refuse(name, LABELS, name in GENERATED and name not in QUESTIONS)
    kind, looks_like = _held(name)
    _refuse(f"{name} looks like {looks_like}: it" if looks_like else name, LABELS, kind == LABELLED)


def _held(name: str) -> tuple[str | None, str]:
    """What a folder or file on this machine holds, and what it looks like, where its layout tells that unread."""
    from edgelib.data.readers.layouts.table import recognised
    from edgelib.data.readers.local import found_at
    from edgelib.ground.paths import from_home

    path = from_home(name)
    source = recognised(found_at(path)) if name and os.path.exists(path) else None
    return (None, "") if source is None else (source.kind, source.looks_like)


def _asks(task: str, looks_like: str = "") -> str:
    """Which parameters take the questions of a benchmark."""
    taken = task if task in ASKED else f"more: {{{task}: ...}}"
    return ASKS.format(f" ({looks_like})" if looks_like else "", taken)


def refuse_unfit(name: str, configs: Iterable[str]) -> None:
    """Refuse a scheme with groups of weights, or layers, that a model on this machine does not have.

    Shapes alone are built, from its configuration; of a timm model it is told once it is loaded.
    """
    from edgelib.ground.separate import separated
    from edgelib.models.architectures import architecture
    from edgelib.models.generative import GenerativeModel
    from edgelib.quant.report import parameter_plan

    named = [config for config in dict.fromkeys(configs) if is_particular(config) or _rounds_vision(config)]
    kind = _kind(name) if named else None
    if kind not in ("dual", "writes"):
        return
    try:
        built: Any = separated(architecture(str(_configuration(name))))
        built = GenerativeModel(name, built, None) if kind == "writes" else built
    except EdgelibError:  # loading says what is wrong with it
        return
    for config in named:
        if kind == "dual":
            _refuse_vision(config, name)
        try:
            parameter_plan(built, config)
        except EdgelibError as error:
            raise EdgelibError(f"{config} does not fit {name}: {error}") from None


def refuse_twins(name: str, twins: Iterable[str]) -> None:
    """Refuse planted outliers of a decoder, for a model on this machine that has none."""
    from edgelib.models.twins import WRITERS_ONLY, parse_twin

    wrong = next((twin for twin in twins if parse_twin(twin)[0] in WRITERS_ONLY), None)
    if wrong is not None and _kind(name) in ("dual", "timm"):
        raise EdgelibError(f"{wrong} is of the decoder of a model that writes, and {name} has none; leave it out")


def refuse_length(name: str, new_tokens: int) -> None:
    """Refuse answers that are longer than what a model on this machine reads and writes together."""
    from edgelib.models.preprocess import read_object

    path, text = _configuration(name), None
    with contextlib.suppress(EdgelibError):  # loading says what is wrong with it
        config = {} if path is None else read_object(path)
        text = config.get("text_config", config)
    most = text.get("max_position_embeddings") if isinstance(text, dict) else None
    if isinstance(most, int) and new_tokens >= most:
        raise EdgelibError(f"max_new_tokens = {new_tokens}: {name} reads and writes {most} tokens in all; choose less")


def load_kind(refuse: Callable[[str], None], name: str, *, device: str, offline: bool) -> Any:
    """Load a model whose name `refuse` takes; a hub id of the wrong kind is refused before its weights are fetched.

    Raises EdgelibError as `load` does, and then says which kind is wanted, where that could not be told.
    """
    from edgelib.models.load import load

    if not offline:
        _fetch_configuration(name)
    refuse(name)
    try:
        return load(name, device=device, offline=offline)
    except EdgelibError as error:
        if _configuration(name) is not None or os.path.isdir(os.path.expanduser(name)):
            raise
        raise EdgelibError(f"{error}; what is wanted here {_wanted(refuse)}") from None


def _fetch_configuration(name: str) -> None:
    """Bring the configuration of a hub id into the cache; where that fails, loading says why."""
    from huggingface_hub import constants, hf_hub_download

    if name.count("/") == 1 and _configuration(name) is None and not constants.HF_HUB_OFFLINE:
        with contextlib.suppress(Exception):  # network, log-in, a name that is no id: many types
            hf_hub_download(name, "config.json", etag_timeout=5)


def _wanted(refuse: Callable[[str], None]) -> str:
    """The kind of models that a check of names lets pass, in words."""
    from edgelib.models.families.duals import dual_types

    if refuse is name_of_writer:
        return "is a model that writes about an image, such as Qwen2-VL, SmolVLM or LLaVA"
    supervised = "is a timm classifier of images"
    return supervised if refuse is name_of_supervised else f"classifies images: {', '.join(dual_types())} or timm's"


def classifier(model: object, name: str) -> ZeroShotModel:
    """Return a loaded model that classifies images; raises EdgelibError for one that writes."""
    from edgelib.models.zero_shot import ZeroShotModel

    _refuse(name, WRITES, not isinstance(model, ZeroShotModel))
    return model  # type: ignore[return-value]


def supervised(model: object, name: str) -> ZeroShotModel:
    """Return a loaded timm classifier; raises EdgelibError for any other model."""
    from edgelib.models.zero_shot import TimmClassifier

    _refuse(name, NO_TIMM, not isinstance(classifier(model, name), TimmClassifier))
    return model  # type: ignore[return-value]


def writer(model: object, name: str) -> GenerativeModel:
    """Return a loaded model that writes; raises EdgelibError for one that classifies."""
    from edgelib.models.generative import GenerativeModel

    _refuse(name, CLASSIFIES, not isinstance(model, GenerativeModel))
    return model  # type: ignore[return-value]


def labels(data: object, name: str) -> Dataset:
    """Return labelled images; raises EdgelibError for questions, and for images of one class."""
    from edgelib.data.labelled import Dataset
    from edgelib.data.questions import QuestionSet

    if isinstance(data, QuestionSet):
        _refuse(name, _asks(data.task.name), True)
    assert isinstance(data, Dataset)  # a data set is one of the two
    if len(data.class_names) < 2:
        raise EdgelibError(
            f"{name} holds one class, {', '.join(map(repr, data.class_names))}, which leaves a classifier nothing to "
            "tell apart; sort its images into a folder for each class, or name another data set"
        )
    return data


def questions(data: object, name: str) -> QuestionSet:
    """Return questions; raises EdgelibError for labelled images."""
    from edgelib.data.questions import QuestionSet

    _refuse(name, LABELS, not isinstance(data, QuestionSet))
    return data  # type: ignore[return-value]


def _refuse(name: str, why: str, wrong: bool) -> None:
    if wrong:
        raise EdgelibError(f"{name} {why} can take it")


def _rounds_vision(config: str) -> bool:
    from edgelib.quant.names import VISION_TOO

    return scheme_of(config).targets == VISION_TOO


def _refuse_vision(config: str, name: str) -> None:
    """Raise EdgelibError for a scheme that rounds a vision tower, on a model that has none beside a decoder."""
    if _rounds_vision(config):
        raise EdgelibError(
            f"{config} rounds the vision tower of a model that writes too, which {name} does not have; "
            f"take {config.replace('-vision', '')}"
        )


def check_parts(model: Any, configs: list[str], twins: list[str], seed: int = 0) -> None:
    """Raise EdgelibError for a scheme or a twin that asks for parts which the model lacks, before any work.

    Of twins, the strongest of each kind is planted in a copy, which also tells a strength that leaves the dtype.
    """
    from edgelib.models.twins import OFFSET, parse_twin, with_outliers
    from edgelib.quant.quantize import check_groups, target_layers
    from edgelib.quant.scheme import scheme_for

    for config in configs:
        if not (hasattr(model, "towers") and model.towers()["vision"]):
            _refuse_vision(config, model.name)
        scheme = scheme_for(model, config)
        try:
            check_groups(model.module, scheme, target_layers(model.module, scheme))
        except EdgelibError as error:
            raise EdgelibError(f"{config} does not fit {model.name}: {error}") from None
    strongest = dict(sorted(map(parse_twin, twins), key=lambda twin: twin[1]))
    for kind, strength in strongest.items():
        if kind == OFFSET and not hasattr(model, "towers"):
            raise EdgelibError(
                f"{kind}:{strength:g} is of the decoder of a model that writes, and {model.name} has none; leave it out"
            )
        with_outliers(model, kind, strength, seed)
