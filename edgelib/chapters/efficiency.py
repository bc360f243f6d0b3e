"""The chapter `efficiency`: bytes, measured times and projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from edgelib.chapters.schema.base import Classifier, Labels, OneClassifier, kinds
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Configs,
    Devices,
    Files,
    Name,
    TablePath,
    check_devices,
    is_particular,
    refuse_layers,
)
from edgelib.errors import EdgelibError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgelib.data.labelled import Dataset


class Efficiency(OneClassifier):
    """Parameters of the chapter `efficiency`."""

    model: Classifier = Field("scenes-clip", description="model that is packed, saved and read again")
    dataset: Labels = Field("scenes", description="images it is compared with its simulation on")
    split: Name = Field("test", description="split of the images")
    n_images: int = Field(32, ge=2, le=MOST_ITEMS, description="how many of them")
    architectures: Files = Field(
        ["clip-vit-base-patch32", "qwen2-vl-2b"],
        description="models whose size is computed from public dimensions: a name, or a config.json",
    )
    configs: Configs = Field(
        ["fp32", "fp16", "w8a8-minmax", "w8a16", "w4a8-minmax", "w4a16", "fp8", "nvfp4"],
        description="configurations, the unquantized one first",
    )
    measurements: TablePath | None = Field(
        None, description='folder made by `edgelib measure`; null: the published machine, "here": measure now'
    )
    devices: Devices | None = Field(None, description="keys of the device table, in order; null takes all")
    device_table: TablePath | None = Field(None, description="file of a device of your own, or a folder of them")
    encoder: TablePath = Field(
        "clip-vit-base-patch32",
        description="vision encoder that is projected onto the devices: a name, or a config.json",
    )
    decoder: TablePath = Field(
        "qwen2-vl-2b", description="language model that is projected onto the devices: a name, or a config.json"
    )
    context: int = Field(1024, ge=1, le=2**24, description="tokens that the language model keeps in memory")
    projection_level: float = Field(0.9, ge=0.5, lt=1, description="level of the intervals of projections")

    def load_data(self) -> Dataset:
        """The images, whatever their labels."""
        from edgelib.data.datasets import dataset

        found = dataset(self.dataset, self.split, self.n_images, self.seed, offline=self.local_files_only)
        return kinds.labels(found, self.dataset)

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The images."""
        return {"dataset": (self.dataset, self.load_data)}

    @field_validator("measurements")
    @classmethod
    def _measured(cls, folder: str | None) -> str | None:
        from edgelib.devices.measurements import load_measurements, machine_device

        if folder == "here":
            return folder
        measured = load_measurements(folder)
        machine_device(measured)
        if not len(measured.encoders):
            raise EdgelibError(
                f"{folder} holds no times of an encoder, which the chapter compares kernels by: this model's images "
                "are encoded only together with their prompt; null takes the published machine"
            )
        return folder

    @field_validator("encoder", "decoder")
    @classmethod
    def _shape(cls, name: str, info) -> str:
        from edgelib.devices import shapes

        getattr(shapes, info.field_name)(name)
        return name

    @model_validator(mode="after")
    def _layers(self) -> Efficiency:
        """Layers and groups that a configuration names are of every model whose size is computed."""
        for config in filter(is_particular, self.configs):
            for name in self.architectures:
                refuse_layers(name, config)
        return self

    @model_validator(mode="after")
    def _devices(self) -> Efficiency:
        check_devices(self.devices, self.device_table)
        return self
