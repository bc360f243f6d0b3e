"""What every chapter takes, and what those that classify images or ask questions have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgelib.chapters.fields import Mix, Name, Prompts, SeverityTable


class Parameters(BaseModel):
    """Base of every chapter's schema: unknown names are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    seed: int = Field(0, ge=0, lt=2**31, description="the only source of randomness")
    batch_size: int = Field(128, ge=1, description="images per forward pass; no result depends on it")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description='"cpu", "cuda", "cuda:1" or "mps"')
    local_files_only: bool = Field(False, description="never ask a hub: names must be folders or downloaded already")
    level: float = Field(0.95, ge=0.5, lt=1, description="confidence level of the intervals")
    results: Name = Field("results", description="folder for outcomes, figures and tables")


class Grid(Parameters):
    """What chapters share that evaluate a grid of cells."""

    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "thread", "process"] = Field("thread", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="threads or processes of the executor")


class ZeroShot(Grid):
    """What chapters share that classify images without training on them: the model, the prompts and the images."""

    model: Name = Field("scenes-clip", description="zero-shot model: embedded name, folder or hub id")
    prompts: Prompts = Field("simple", description="set of prompt templates, or one template with {}")
    dataset: Name = Field("scenes", description='"scenes", a folder, an .npz file or a hub id')
    split: Name = Field("test", description="split of the data set")
    image_column: Name | None = Field(None, description="column of images, where the usual names do not fit")
    label_column: Name | None = Field(None, description="column of labels, where the usual names do not fit")
    n_images: int = Field(64, ge=2, description="images drawn from the split")
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")


class Answers(Grid):
    """What chapters share that ask a model which writes."""

    model: Name = Field("scenes-vlm", description="a model that writes: embedded name, folder or hub id")
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(32, ge=1, description="questions in a calibration set")
    executor: Literal["serial", "process"] = Field("serial", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes of the process executor")
