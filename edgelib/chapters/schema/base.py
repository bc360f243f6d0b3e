"""What every chapter takes, and what those that classify images or ask questions have in common.

A chapter is one file beside this one: its parameters as a class and, where it evaluates models, the study that they
lead to, a method `study()`. Its imports of the library are made when they are needed, so that parameters can be checked
where no torch is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from edgelib.chapters.schema import kinds, present
from edgelib.chapters.schema.fields import (
    MOST_AT_ONCE,
    MOST_ITEMS,
    DataName,
    Kind,
    Mix,
    ModelName,
    Name,
    Prompts,
    SeverityTable,
    Source,
    scheme_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgelib.data.labelled import Dataset
    from edgelib.models.generative import GenerativeModel
    from edgelib.models.zero_shot import ZeroShotModel


Classifier = Annotated[ModelName, Kind(kinds.name_of_classifier)]
Writer = Annotated[ModelName, Kind(kinds.name_of_writer)]
Labels = Annotated[DataName, Kind(kinds.name_of_labels)]
Questions = Annotated[DataName, Kind(kinds.name_of_questions)]
# The parameters that list the schemes of `model`.
CONFIGS = ("configs", "ladder", "mix", "vision_configs", "twin_configs", "translation_config")


class Parameters(BaseModel):
    """Base of every chapter's schema: unknown names are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    seed: int = Field(0, ge=0, lt=2**31, description="the only source of randomness")
    batch_size: int = Field(128, ge=1, le=MOST_AT_ONCE, description="images per forward pass; no result depends on it")
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:[0-9]{1,3})?|mps)$", description='"cpu", "cuda", "cuda:1" or "mps"'
    )
    local_files_only: bool = Field(False, description="never ask a hub: names must be folders or downloaded already")
    level: float = Field(0.95, ge=0.5, lt=1, description="confidence level of the intervals")
    results: Name = Field("results", description="folder for outcomes, figures and tables")

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        """The parameters that name files or folders, in order: what else, beside code, the chapter depends on."""
        return tuple(name for name in cls.model_fields if _marks(cls, name, Source))

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        """The chapters whose published tables it reads: it is published after them, and stale once they change."""
        return ()

    @classmethod
    def model_marks(cls) -> list[tuple[str, Kind]]:
        """The parameters that name a model, each with the kind that it takes."""
        wanted = (kinds.name_of_classifier, kinds.name_of_supervised, kinds.name_of_writer)
        return [(n, mark) for n in cls.model_fields for mark in _marks(cls, n, Kind) if mark.refuse in wanted]

    def provenance(self) -> dict[str, Any]:
        """What the numbers of a chapter with these parameters are made from, as plain values: see `provenance`."""
        from edgelib.chapters.schema.provenance import provenance

        return provenance(self)

    def refuse_kinds(self) -> None:
        """Raise EdgelibError for a given model or data set whose name tells that it is of a kind that is not taken."""
        for name in sorted(self.model_fields_set):
            value = getattr(self, name)
            for mark in _marks(type(self), name, Kind) if value is not None else ():
                mark.refuse(value)
        if self.model_fields_set & {"model", *CONFIGS} and hasattr(self, "model"):
            named = (getattr(self, name, None) or [] for name in CONFIGS)
            kinds.refuse_unfit(self.model, (c for some in named for c in ([some] if isinstance(some, str) else some)))
        if self.model_fields_set & {"model", "twins"} and hasattr(self, "model"):
            kinds.refuse_twins(self.model, getattr(self, "twins", []))
        longest = getattr(self, "max_new_tokens", None)
        if self.model_fields_set & {"model", "max_new_tokens"} and hasattr(self, "model") and longest is not None:
            kinds.refuse_length(self.model, longest)

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The data sets that it scores, by parameter: the name of each, and what loads it."""
        return {}

    def draws(self) -> Iterable[present.Draw]:
        """The calibration sets that are drawn."""
        return ()

    def look(self) -> None:
        """Look at what is named and lies on this machine, before any work.

        Raises EdgelibError for a model or data set that is not there, or that cannot be read as it is asked for, and
        for results that cannot be written.
        """
        offline = self.local_files_only
        present.require_writable(self.results)
        present.require_machine(self.device, getattr(self, "executor", None))
        for name, _ in self.model_marks():
            if name in self.model_fields_set and getattr(self, name) is not None:
                present.require_model(getattr(self, name), offline)
        for key, (name, _) in self.data_sets().items():
            present.require_generated(name, getattr(self, f"{key}_split", getattr(self, "split", None)))
        scored = {key: present.require_data(name, load, offline) for key, (name, load) in self.data_sets().items()}
        for draw in self.draws():
            present.require_draw(draw, self.seed, scored.get(draw.scored), offline)
        self.look_together(scored)

    def look_together(self, scored: dict[str, Any]) -> None:
        """Look at whether models and the data sets that were found fit; scored: by parameter, None where not here."""


def _marks(schema: type[BaseModel], name: str, kind: type) -> list:
    """What annotates a field, also within "... | None"."""
    field = schema.model_fields[name]
    parts = [*field.metadata, *(mark for p in get_args(field.annotation) for mark in getattr(p, "__metadata__", ()))]
    return [mark for mark in parts if isinstance(mark, kind)]


class OneClassifier(Parameters):
    """What chapters share that look at one model which classifies images, without a grid."""

    model: Classifier = Field("scenes-clip", description="an embedded model, a folder or a hub id")

    def load_model(self) -> ZeroShotModel:
        """The model on the device; raises EdgelibError naming the chapter that takes a model of another kind."""
        how: Any = {"device": self.device, "offline": self.local_files_only}
        return kinds.classifier(kinds.load_kind(kinds.name_of_classifier, self.model, **how), self.model)


class GridParameters(Parameters):
    """What chapters share that evaluate a grid of cells."""

    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "thread", "process", "ray"] = Field("thread", description="how cells are run")
    workers: int = Field(2, ge=1, le=256, description="threads, processes or actors of the executor")


class ZeroShot(GridParameters):
    """What chapters share that classify images without training on them: the model, the prompts and the images."""

    model: Classifier = Field("scenes-clip", description="zero-shot model: embedded name, folder or hub id")
    prompts: Prompts = Field("simple", description="set of prompt templates, or one template with {}")
    dataset: Labels = Field("scenes", description='"scenes", a folder, an .npz file or a hub id')
    split: Name = Field("test", description="split of the data set")
    image_column: Name | None = Field(None, description="column of images, where the usual names do not fit")
    label_column: Name | None = Field(None, description="column of labels, where the usual names do not fit")
    n_images: int = Field(64, ge=2, le=MOST_ITEMS, description="images drawn from the split")
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")

    def reading(self) -> dict[str, Any]:
        """How the data set is read, as `dataset` and `calibration_set` take it."""
        return {
            "offline": self.local_files_only,
            "label_column": self.label_column,
            "image_column": self.image_column,
        }

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The labelled images."""
        return {"dataset": (self.dataset, self.load_data)}

    def protocol(self) -> dict[str, Any]:
        """What every study of classifiers takes over from the parameters."""
        return {"prompts": self.prompts, "seed": self.seed, "table": self.table, "batch_size": self.batch_size}

    def load_data(self) -> Dataset:
        """The scored images."""
        from edgelib.data.datasets import dataset

        found = dataset(self.dataset, self.split, self.n_images, self.seed, **self.reading())
        return kinds.labels(found, self.dataset)

    def load_model(self) -> ZeroShotModel:
        """The model on the device."""
        how: Any = {"device": self.device, "offline": self.local_files_only}
        return kinds.classifier(kinds.load_kind(kinds.name_of_classifier, self.model, **how), self.model)

    def look_together(self, scored: dict[str, Any]) -> None:
        """Raise EdgelibError for classes that a model of this machine cannot be asked for."""
        for name in (self.model, getattr(self, "baseline_model", None)):
            if name is not None:
                present.require_classes(name, self.dataset, scored["dataset"], self.prompts, self.local_files_only)

    def draws(self) -> Iterable[present.Draw]:
        """The calibration set, if a configuration looks at one."""
        return self.one_draw(*(getattr(self, name) for name in ("configs", "calibration", "n_calibration")))

    def one_draw(self, configs: list[str], mix: str, n: int) -> list[present.Draw]:
        """The draw of `draw_sets`, none if no configuration looks."""
        needed = any(scheme_of(config).needs_calibration for config in configs)
        return [present.Draw("dataset", mix, n, self.dataset, self.reading())] if needed else []

    def draw_sets(self, data: Dataset, configs: list[str], mix: str, n: int, draws: int = 1) -> tuple[Dataset, ...]:
        """Calibration sets of the seeds seed, seed + 1, ..., without scored images; none if no configuration looks."""
        from edgelib.data.calibration import calibration_set

        if not any(scheme_of(config).needs_calibration for config in configs):
            return ()
        seeds = range(self.seed, self.seed + draws)
        sets = (calibration_set(mix, n, seed, self.dataset, exclude=data, **self.reading()) for seed in seeds)
        return cast("tuple[Dataset, ...]", tuple(sets))


class Answers(GridParameters):
    """What chapters share that ask a model which writes."""

    model: Writer = Field("scenes-vlm", description="a model that writes: embedded name, folder or hub id")
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(32, ge=1, le=MOST_ITEMS, description="questions in a calibration set")
    executor: Literal["serial", "process", "ray"] = Field("serial", description="how cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes or actors of the executor")

    def load_model(self) -> GenerativeModel:
        """The model on the device."""
        how: Any = {"device": self.device, "offline": self.local_files_only}
        return kinds.writer(kinds.load_kind(kinds.name_of_writer, self.model, **how), self.model)
