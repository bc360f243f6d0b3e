"""What every chapter takes, and what those that classify images or ask questions have in common.

A chapter is one file beside this one: its parameters as a class and, where it evaluates models, the study that they
lead to, a method `study()`. Its imports of the library are made when they are needed, so that parameters can be checked
where no torch is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from edgelib.chapters.fields import DataName, Mix, ModelName, Name, Prompts, SeverityTable, Source, scheme_of

if TYPE_CHECKING:
    from edgelib.data.labelled import Dataset
    from edgelib.models.zero_shot import ZeroShotModel


class Parameters(BaseModel):
    """Base of every chapter's schema: unknown names are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    seed: int = Field(0, ge=0, lt=2**31, description="the only source of randomness")
    batch_size: int = Field(128, ge=1, description="images per forward pass; no result depends on it")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description='"cpu", "cuda", "cuda:1" or "mps"')
    local_files_only: bool = Field(False, description="never ask a hub: names must be folders or downloaded already")
    level: float = Field(0.95, ge=0.5, lt=1, description="confidence level of the intervals")
    results: Name = Field("results", description="folder for outcomes, figures and tables")

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        """The parameters that name files or folders, in order: what else, beside code, the chapter depends on."""
        return tuple(
            name
            for name, field in cls.model_fields.items()
            if any(isinstance(mark, Source) for mark in _marks(field.annotation, field.metadata))
        )


def _marks(annotation: object, metadata: list) -> list:
    """What annotates a field, also within "... | None"."""
    return [*metadata, *(mark for part in get_args(annotation) for mark in getattr(part, "__metadata__", ()))]


class GridParameters(Parameters):
    """What chapters share that evaluate a grid of cells."""

    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "thread", "process"] = Field("thread", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="threads or processes of the executor")


class ZeroShot(GridParameters):
    """What chapters share that classify images without training on them: the model, the prompts and the images."""

    model: ModelName = Field("scenes-clip", description="zero-shot model: embedded name, folder or hub id")
    prompts: Prompts = Field("simple", description="set of prompt templates, or one template with {}")
    dataset: DataName = Field("scenes", description='"scenes", a folder, an .npz file or a hub id')
    split: Name = Field("test", description="split of the data set")
    image_column: Name | None = Field(None, description="column of images, where the usual names do not fit")
    label_column: Name | None = Field(None, description="column of labels, where the usual names do not fit")
    n_images: int = Field(64, ge=2, description="images drawn from the split")
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")

    def reading(self) -> dict[str, Any]:
        """How the data set is read, as `dataset` and `calibration_set` take it."""
        return {
            "offline": self.local_files_only,
            "label_column": self.label_column,
            "image_column": self.image_column,
        }

    def protocol(self) -> dict[str, Any]:
        """What every study of classifiers takes over from the parameters."""
        return {"prompts": self.prompts, "seed": self.seed, "table": self.table, "batch_size": self.batch_size}

    def load_data(self) -> Dataset:
        """The scored images."""
        from edgelib.data.datasets import dataset

        return dataset(self.dataset, self.split, self.n_images, self.seed, **self.reading())

    def load_model(self, name: str | None = None) -> ZeroShotModel:
        """The model, or the one called `name`, on the device."""
        from edgelib.models.load import load

        return load(self.model if name is None else name, device=self.device, offline=self.local_files_only)

    def draw_sets(self, data: Dataset, configs: list[str], mix: str, n: int, draws: int = 1) -> tuple[Dataset, ...]:
        """Calibration sets of the seeds seed, seed + 1, ..., without scored images; none if no configuration looks."""
        from edgelib.data.calibration import calibration_set

        if not any(scheme_of(config).needs_calibration for config in configs):
            return ()
        seeds = range(self.seed, self.seed + draws)
        return tuple(calibration_set(mix, n, seed, self.dataset, exclude=data, **self.reading()) for seed in seeds)


class Answers(GridParameters):
    """What chapters share that ask a model which writes."""

    model: ModelName = Field("scenes-vlm", description="a model that writes: embedded name, folder or hub id")
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(32, ge=1, description="questions in a calibration set")
    executor: Literal["serial", "process"] = Field("serial", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes of the process executor")
