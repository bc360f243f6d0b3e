"""Parameters of the chapters about devices: what a model costs there, and which one to ship."""

from __future__ import annotations

import os
import warnings
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, field_validator, model_validator

from edgelib.chapters.base import Parameters, ZeroShot
from edgelib.chapters.fields import (
    Configs,
    Corruptions,
    Mix,
    Name,
    Names,
    Severities,
    at_least_two,
    each,
    one,
    scheme_of,
)
from edgelib.errors import EdgelibError, choose


def _in_checkout(path: str) -> str:
    """The path as a kernel of `edgelib publish` reads it, from the checkout or from home; one that is nowhere stays."""
    from edgelib.ground.paths import find_root

    own = find_root() / os.path.expanduser(path)
    return str(own) if own.exists() else path


def _check_devices(keys: list[str] | None, table: str | None) -> None:
    from edgelib.devices.table import devices, select

    select(devices(table), keys or [])


def _alone(config: str) -> None:
    plan = scheme_of(config)
    if plan.needs_calibration or (plan.method == "cast" and plan.weight != "fp32"):
        why = "needs a calibration set" if plan.needs_calibration else "casts the whole model"
        raise EdgelibError(f"{config} {why}, so the sensitivity of one layer to it cannot be measured; leave it out")


def _check_costs(name: str) -> None:
    with warnings.catch_warnings():  # parameters are checked before a chapter's setup quiets the libraries
        warnings.filterwarnings("ignore", message="IProgress not found")
        from edgelib.devices.workload import encoder_of
        from edgelib.models.architectures import architecture

        shapes = architecture(_in_checkout(name))
    if not hasattr(shapes, "vision_model"):
        raise EdgelibError(f"{name} has no vision_model to cost; choose a dual encoder such as 'clip-vit-base-patch32'")
    encoder_of(shapes.config.vision_config)


DeviceTable = Annotated[str, AfterValidator(_in_checkout)]


class Efficiency(Parameters):
    """Parameters of the chapter `efficiency`."""

    model: Name = Field("scenes-clip", description="model that is packed, saved and read again")
    dataset: Name = Field("scenes", description="images it is compared with its simulation on")
    n_images: int = Field(32, ge=2, description="how many of them")
    architectures: Names = Field(
        ["clip-vit-base-patch32", "qwen2-vl-2b"],
        description="models whose size is computed from public dimensions: a name, or a config.json",
    )
    configs: Configs = Field(
        ["fp32", "fp16", "w8a8-minmax", "w8a16", "w4a8-minmax", "w4a16", "fp8", "nvfp4"],
        description="configurations, the unquantized one first",
    )
    measurements: str | None = Field(
        None, description='folder made by `edgelib measure`; null: the published machine, "here": measure now'
    )
    devices: Names | None = Field(None, description="keys of the device table, in order; null takes all")
    device_table: DeviceTable | None = Field(None, description="YAML file with device rows of your own")
    encoder: str = Field("clip-vit-b32", description="vision encoder that is projected onto the devices")
    decoder: str = Field("qwen2-vl-2b", description="language model that is projected onto the devices")
    context: int = Field(1024, ge=1, description="tokens that the language model keeps in memory")
    projection_level: float = Field(0.9, ge=0.5, lt=1, description="level of the intervals of projections")

    @field_validator("encoder", "decoder")
    @classmethod
    def _shape(cls, name: str, info) -> str:
        from edgelib.devices import workload

        getattr(workload, info.field_name)(name)
        return name

    @model_validator(mode="after")
    def _devices(self) -> Efficiency:
        _check_devices(self.devices, self.device_table)
        return self


class Pareto(ZeroShot):
    """Parameters of the chapter `pareto`."""

    configs: Annotated[Configs, at_least_two("configurations to choose from")] = Field(
        ["fp32", "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w4a8-awq", "w3a8-minmax"],
        description="configurations, the reference first",
    )
    corruptions: Corruptions = Field(["gaussian_noise", "fog", "jpeg_compression"], description="corruptions to apply")
    severities: Severities = Field([3], description="severities, 1 to 5")
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(32, ge=1, description="images in a calibration set")
    seeds: int = Field(2, ge=1, le=100, description="calibration draws of the configurations that need one")
    cost_of: Annotated[str, one(_check_costs)] | None = Field(
        "clip-vit-base-patch32",
        description="architecture whose bytes and latency stand for a deployed model; null: the evaluated model itself",
    )
    tiers: dict[str, str] = Field(
        {"embedded": "jetson-nano", "mobile": "snapdragon-8-gen-3", "edge-server": "orin-nx-16gb"},
        description="tier -> device that its latency is projected onto",
    )
    budgets: dict[str, float] | None = Field(
        None, description='a tier of your own on every device, such as {"bytes": 2e8, "latency_ms": 5}'
    )
    devices: Names | None = Field(None, description="devices of the deployment guide; null takes all")
    device_table: DeviceTable | None = Field(None, description="YAML file with device rows of your own")
    mix: Annotated[Configs, each(_alone), at_least_two("configurations to choose from")] = Field(
        ["w4a8-minmax", "w3a8-minmax", "w8a8-minmax"],
        description="formats that layers choose from; the first is the uniform scheme to beat at equal bytes",
    )
    mix_slack: float = Field(0.0, ge=0, description="share of bytes that the mix may have beyond the first format")
    n_sensitivity: int = Field(32, ge=1, description="images that the layers' sensitivity is measured on")

    # What a grid also takes, of which this chapter has none.
    baseline_model: ClassVar[None] = None
    baseline_configs: ClassVar[tuple] = ()
    twins: ClassVar[tuple] = ()
    twin_configs: ClassVar[tuple] = ()
    twin_severities: ClassVar[tuple] = ()

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: dict[str, float] | None) -> dict[str, float] | None:
        for column, most in (budgets or {}).items():
            choose(dict.fromkeys(("bytes", "latency_ms")), column, "budget")
            if not most > 0:
                raise EdgelibError(f"the budget of {column!r} must be above 0, got {most}")
        return budgets

    @model_validator(mode="after")
    def _tiers_and_devices(self) -> Pareto:
        from edgelib.decide.pareto import TIERS

        for tier in self.tiers:
            choose(TIERS, tier, "tier")
        if not self.tiers:
            raise EdgelibError("tiers needs at least one tier, such as {'mobile': 'snapdragon-8-gen-3'}")
        _check_devices([*self.tiers.values(), *(self.devices or [])], self.device_table)
        return self
