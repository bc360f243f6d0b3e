"""Parameters of the chapters that ask a model which writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgelib.chapters.base import Answers
from edgelib.chapters.fields import (
    Caches,
    Conditions,
    Configs,
    Mixes,
    Name,
    SeverityTable,
    SomeConfigs,
    Twins,
    at_least_two,
    distinct,
    one,
    scheme_of,
)
from edgelib.errors import EdgelibError


def _calibrated(config: str) -> None:
    if not scheme_of(config).needs_calibration:
        raise EdgelibError(f"{config} needs no calibration set, so the language of one cannot matter; take another")


Doses = Annotated[
    list[Annotated[float, Field(ge=1)]], Field(min_length=2), AfterValidator(distinct), AfterValidator(sorted)
]
DoseKinds = Annotated[list[Literal["key", "value", "key-offset"]], Field(min_length=1), AfterValidator(distinct)]


class VlmAccuracy(Answers):
    """Parameters of the chapter `vlm_accuracy`."""

    vqa: Name = Field("scenes-vqa", description="questions in the columns of lmms-lab/VQAv2")
    vqa_split: Name = Field("test", description="split of the VQA questions")
    n_vqa: int = Field(24, ge=2, description="VQA images, each with all of its questions")
    pope: Name = Field("scenes-pope", description="questions in the columns of lmms-lab/POPE")
    pope_split: Name = Field("test", description="split of the POPE questions")
    n_pope: int = Field(8, ge=2, description="POPE images, each with all of its questions")
    mme: Name = Field("scenes-mme", description="questions in the columns of lmms-lab/MME")
    mme_split: Name = Field("test", description="split of the MME questions")
    n_mme: int = Field(42, ge=28, description="MME images, spread over the sub-tasks")
    configs: Annotated[Configs, at_least_two("configurations: the reference, and one to compare with it")] = Field(
        ["bf16", "w8a16", "w4a16", "w8a8-smoothquant", "fp8", "w4a16-awq", "nvfp4"],
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
    translation_config: Annotated[str, one(_calibrated)] = Field(
        "w4a16-awq", description="configuration of the language experiment"
    )
    translation_mixes: Annotated[Mixes, Field(min_length=2, max_length=2)] = Field(
        ["english", "balanced"], description="calibration mixes that are compared: one language, and both"
    )
    translation_draws: int = Field(1, ge=1, le=100, description="calibration draws of each mix, seeds 0, 1, ...")
    n_translation: int = Field(8, ge=2, description="images of the translation sub-task of MME")
    conditions: Conditions = Field(["gaussian_noise:3", "fog:3"], description='conditions such as "fog:3"')
    corrupted_task: Literal["vqa", "pope", "mme"] = Field("pope", description="questions asked about corrupted images")
    table: SeverityTable | None = Field(None, description="severity table; null chooses by image size")
    instruction: str = Field("", description="a line after each question, as real models want to be asked")
    max_new_tokens: int = Field(8, ge=1, le=4096, description="longest answer, in tokens")


class Fp8KvAblation(Answers):
    """Parameters of the chapter `fp8_kv_ablation`."""

    dataset: Name = Field("scenes-vqa", description="questions about images")
    split: Name = Field("test", description="split of the questions")
    n_images: int = Field(24, ge=4, description="images, each with all of its questions")
    format: Literal["e4m3", "e5m2", "int8", "int4"] = Field("e4m3", description="format of the cache that is examined")
    attention: Literal["fp8_e4m3", "fp8_e5m2", "int8"] = Field(
        "fp8_e4m3", description="format of the second ablation, in which attention computes"
    )
    twins: Twins = Field(
        ["key:1024", "value:1024", "key-offset:256"], description="planted outliers that the ladder is climbed on"
    )
    dose_kinds: DoseKinds = Field(
        ["key", "value", "key-offset"], description="kinds of planted outliers of the dose-response curves"
    )
    doses: Doses = Field([64.0, 1024.0], description="strengths of the planted outliers")
    dose_schemes: Caches = Field(
        ["e4m3-one", "e4m3-amax", "int8-amax"], description="caches of the dose-response curves"
    )
    fixes: Caches = Field(
        ["e4m3-amax", "e4m3-channel", "int8-amax", "int8-channel", "int4-channel-mean"],
        description="caches that are tested for non-inferiority to the exact one",
    )
    margin: float = Field(0.01, gt=0, lt=1, description="accuracy that a non-inferior cache may lose")
    steps: int = Field(4, ge=2, le=256, description="tokens that are written to see whether errors grow")
    max_new_tokens: int = Field(4, ge=1, le=4096, description="longest answer, in tokens")
