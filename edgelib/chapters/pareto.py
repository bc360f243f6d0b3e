"""The chapter `pareto`: which configuration to ship under a budget."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from edgelib.chapters.schema import kinds
from edgelib.chapters.schema.base import ZeroShot
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Configs,
    Corruptions,
    Devices,
    Mix,
    Name,
    Severities,
    Source,
    TablePath,
    at_least_two,
    check_devices,
    each,
    in_checkout,
    is_particular,
    one,
    refuse_layers,
    scheme_of,
)
from edgelib.chapters.schema.present import Draw, require_draw
from edgelib.errors import EdgelibError, choose

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgelib.study.classifier_grid import ClassifierGrid


def _alone(config: str) -> None:
    scheme = scheme_of(config)
    if scheme.needs_calibration or (scheme.method == "cast" and scheme.weight != "fp32"):
        why = "needs a calibration set" if scheme.needs_calibration else "casts the whole model"
        raise EdgelibError(f"{config} {why}, so the sensitivity of one layer to it cannot be measured; leave it out")


def _check_costs(name: str) -> None:
    with warnings.catch_warnings():  # parameters are checked before a chapter's setup quiets the libraries
        warnings.filterwarnings("ignore", message="IProgress not found")
        from edgelib.devices.shapes import encoder_of
        from edgelib.models.architectures import architecture

        shapes = architecture(in_checkout(name))
    if not hasattr(shapes, "vision_model"):
        raise EdgelibError(f"{name} has no vision_model to cost; choose a dual encoder such as 'clip-vit-base-patch32'")
    encoder_of(shapes.config.vision_config)


def _check_writer(name: str) -> None:
    from edgelib.devices.shapes import decoder, encoder

    decoder(in_checkout(name))
    encoder(in_checkout(name))


class Pareto(ZeroShot):
    """Parameters of the chapter `pareto`."""

    configs: Annotated[Configs, at_least_two("configurations to choose from")] = Field(
        ["fp32", "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w4a8-awq", "w3a8-minmax"],
        description="configurations, the reference first",
    )
    corruptions: Corruptions = Field(["gaussian_noise", "fog"], description="corruptions to apply")
    severities: Severities = Field([3], description="severities, 1 to 5")
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(32, ge=1, le=MOST_ITEMS, description="images in a calibration set")
    seeds: int = Field(2, ge=1, le=100, description="calibration draws of the configurations that need one")
    cost_of: Annotated[str, one(_check_costs), Source()] | None = Field(
        "clip-vit-base-patch32",
        description="architecture whose bytes and latency stand for a deployed model; null: the evaluated model itself",
    )
    tiers: dict[Name, Name] = Field(
        {"embedded": "jetson-nano", "mobile": "snapdragon-8-gen-3", "edge-server": "orin-nx-16gb"},
        description="tier -> device that its latency is projected onto",
    )
    budgets: dict[str, float] | None = Field(
        None, description='a tier of your own on every device, such as {"bytes": 4e9, "latency_ms": 50}'
    )
    margin: float = Field(1.0, gt=0, le=50, description="points of accuracy that a configuration may lose")
    order: Literal["speed", "bytes", "energy"] = Field(
        "speed", description="what decides among configurations that keep the margin"
    )
    writer: Annotated[str, one(_check_writer), Source()] | None = Field(
        "qwen2-vl-2b", description="model that writes whose memory is counted beside; null: none"
    )
    context: int = Field(1024, ge=1, le=2**24, description="tokens of text that it keeps in memory")
    devices: Devices | None = Field(None, description="devices of the deployment guide; null takes all")
    device_table: TablePath | None = Field(None, description="file of a device of your own, or a folder of them")
    measurements: TablePath | None = Field(
        None, description="folder made by `edgelib measure` of the model that costs: that machine is one more device"
    )
    mix: Annotated[Configs, each(_alone), at_least_two("configurations to choose from")] = Field(
        ["w4a8-minmax", "w3a8-minmax", "w8a8-minmax"],
        description="formats that layers choose from; the first is the uniform scheme to beat at equal bytes",
    )
    mix_slack: float = Field(
        0.0, ge=0, le=10, description="share of bytes that the mix may have beyond the first format"
    )
    n_sensitivity: int = Field(4, ge=1, le=MOST_ITEMS, description="images that the layers' sensitivity is measured on")

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: dict[str, float] | None) -> dict[str, float] | None:
        if budgets is not None and not budgets:
            raise EdgelibError('it limits nothing; name "bytes" or "latency_ms", or take null')
        for column, most in (budgets or {}).items():
            choose(dict.fromkeys(("bytes", "latency_ms")), column, "budget")
            if not most > 0:
                raise EdgelibError(f"the budget of {column!r} must be above 0, got {most}")
        return budgets

    @field_validator("measurements")
    @classmethod
    def _measured(cls, folder: str | None) -> str | None:
        from edgelib.devices.measurements import load_measurements, machine_device

        if folder is not None:
            machine_device(load_measurements(folder))
        return folder

    @model_validator(mode="after")
    def _towers(self) -> Pareto:
        if self.cost_of is None and kinds.is_supervised(self.model):
            raise EdgelibError(
                f"cost_of is null, and {self.model} is a supervised classifier without two towers to cost; name an "
                "architecture in cost_of, such as 'clip-vit-base-patch32'"
            )
        return self

    @model_validator(mode="after")
    def _power(self) -> Pareto:
        if self.order == "energy":
            from edgelib.devices.table import devices

            known = devices(self.device_table)
            for key in [*self.tiers.values(), *(self.devices or known)]:
                if key in known and not known[key].power_w:
                    raise EdgelibError(
                        f"{known[key].name} has no power_w, so energy is not known there; order by speed or bytes, or "
                        "leave it out of devices"
                    )
        return self

    @model_validator(mode="after")
    def _tiers_and_devices(self) -> Pareto:
        from edgelib.decide.pareto import TIERS

        for tier in self.tiers:
            choose(TIERS, tier, "tier")
        if not self.tiers:
            raise EdgelibError("tiers needs at least one tier, such as {'mobile': 'snapdragon-8-gen-3'}")
        check_devices([*self.tiers.values(), *(self.devices or [])], self.device_table)
        for config in filter(is_particular, self.configs) if self.cost_of is not None else ():
            refuse_layers(self.cost_of, config)  # costs are of the same layers
        return self

    @classmethod
    def reads(cls) -> tuple[str, ...]:
        """The chapters whose caveats it repeats."""
        from edgelib.decide.caveats import CHAPTERS

        return CHAPTERS

    def draws(self) -> Iterable[Draw]:
        """The calibration set, if a configuration looks at one, and the images that layers are measured on."""
        return [*super().draws(), self._probed]

    @property
    def _probed(self) -> Draw:
        return Draw("dataset", self.calibration, self.n_sensitivity, self.dataset, self.reading())

    def study(self) -> ClassifierGrid:
        """Load what the parameters name and lay out the grid; what needs calibration is run once per draw.

        Raises EdgelibError for whatever cannot be loaded, for more images to measure layers on than there
        are, and for measurements of another model than the one that costs.
        """
        from dataclasses import replace

        from edgelib.decide.measured import timed_rows
        from edgelib.devices.measurements import load_measurements
        from edgelib.study.classifier_grid import ClassifierGrid, conditions_of, variants_of
        from edgelib.study.costs import costed

        data, model = self.load_data(), self.load_model()
        kinds.check_parts(model, [*self.configs, *self.mix], [])
        require_draw(self._probed, self.seed, data, self.local_files_only)
        if self.measurements is not None:
            timed_rows(load_measurements(self.measurements), costed(model, self.cost_of)[1], self.measurements)
        variants = variants_of(model.name, [], self.configs)
        calibrations = self.draw_sets(data, self.configs, self.calibration, self.n_calibration, self.seeds)
        drawn = [v for v in variants if scheme_of(v.config).needs_calibration]
        return ClassifierGrid(
            models={model.name: model},
            variants=(*variants, *(replace(v, draw=d) for d in range(1, len(calibrations)) for v in drawn)),
            conditions=conditions_of(self.corruptions, self.severities),
            data=data,
            calibrations=calibrations,
            **self.protocol(),
        )
