"""The chapter `robustness_gap`: how much more corruption costs a quantized model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from edgelib.chapters.schema.base import ZeroShot, kinds
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Configs,
    Corruptions,
    Kind,
    Mix,
    ModelName,
    Severities,
    Twins,
    at_least_two,
)
from edgelib.errors import EdgelibError

if TYPE_CHECKING:
    from edgelib.data.labelled import Dataset
    from edgelib.study.classifier_grid import ClassifierGrid


class RobustnessGap(ZeroShot):
    """Parameters of the chapter `robustness_gap`."""

    baseline_model: Annotated[ModelName, Kind(kinds.name_of_supervised)] | None = Field(
        "scenes-vit", description="supervised timm classifier of the same classes, or null"
    )
    configs: Annotated[Configs, at_least_two("number formats: the reference, and one to compare with it")] = Field(
        ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"],
        description="number formats: the reference first, then at least one to compare with it",
    )
    n_clean_images: int | None = Field(
        None, ge=2, le=MOST_ITEMS, description="images seen clean, the corrupted ones among them; null takes n_images"
    )
    corruptions: Corruptions = Field(["gaussian_noise", "fog", "jpeg_compression"], description="corruptions to apply")
    severities: Severities = Field([1, 5], description="severities 1 (mild) to 5 (harsh)")
    twins: Twins = Field(
        ["weight:4", "weight:16", "activation:32", "activation:512"],
        description='planted outliers as "kind:strength": twins evaluated beside the model',
    )
    baseline_configs: Configs | None = Field(
        None, description="configurations of the supervised baseline, the reference first; null takes all"
    )
    twin_configs: Configs | None = Field(
        None, description="configurations evaluated on the twins; null takes all but the reference"
    )
    twin_severities: Severities | None = Field(
        None, description="severities evaluated on the twins; null takes the middle one"
    )
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(64, ge=1, le=MOST_ITEMS, description="images in the calibration mix")

    @model_validator(mode="after")
    def _twins_within_the_grid(self) -> RobustnessGap:
        middle = self.severities[len(self.severities) // 2]
        defaults = {"twin_configs": self.configs[1:], "twin_severities": [middle], "baseline_configs": self.configs}
        defaults |= {"n_clean_images": self.n_images}
        for field, default in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)  # the model is frozen for everyone else
        parts: dict[str, tuple[str, object]] = {
            "twin_configs": ("configs", self.twins),
            "twin_severities": ("severities", self.twins),
        }
        parts |= {"baseline_configs": ("configs", self.baseline_model)}
        for field, (whole, used) in parts.items():
            outside = [value for value in getattr(self, field) if value not in getattr(self, whole)]
            if used and outside:
                listed = ", ".join(map(repr, getattr(self, whole)))
                raise EdgelibError(f"{field} names {', '.join(map(repr, outside))}, but {whole} has only {listed}")
        if self.baseline_model and (self.baseline_configs[0] != self.configs[0] or len(self.baseline_configs) < 2):
            raise EdgelibError(
                f"baseline_configs = {self.baseline_configs}: name the reference {self.configs[0]!r} first, then at "
                "least one configuration to compare with it"
            )
        if (self.n_clean_images or 0) < self.n_images:
            raise EdgelibError(
                f"n_clean_images = {self.n_clean_images}: the n_images = {self.n_images} that are corrupted are seen "
                f"clean as well; give {self.n_images} or more, or null for as many"
            )
        return self

    def load_data(self) -> Dataset:
        """The images that are seen clean; the first `n_images` of them are corrupted as well."""
        from edgelib.data.datasets import dataset

        found = dataset(self.dataset, self.split, self.n_clean_images, self.seed, **self.reading())
        return kinds.labels(found, self.dataset)

    def clean_study(self, study: ClassifierGrid) -> ClassifierGrid | None:
        """The grid of the images that are seen clean only, in every configuration without outliers; None without any.

        A gap subtracts a clean term of one cell from a corrupted one of many: more clean images cost little and make
        the difference surer. study: of `study`, whose models and calibration it shares.
        """
        from edgelib.corruptions.condition import Condition
        from edgelib.models.twins import PLAIN

        data = self.load_data()
        if len(data) == len(study.data):
            return None
        more = data.subset(range(len(study.data), len(data)))
        plain = tuple(variant for variant in study.variants if variant.twin == PLAIN)
        return replace(study, variants=plain, conditions=(Condition(),), twin_conditions=None, data=more)

    def study(self) -> ClassifierGrid:
        """Load what the parameters name and lay out the grid: the model and its twins, then the supervised baseline.

        Calibration images come from the data set's training split, or from items that are not scored. Raises
        EdgelibError for whatever cannot be loaded.
        """
        from edgelib.study.classifier_grid import ClassifierGrid, conditions_of, variants_of

        data, model = self.load_data(), self.load_model()
        kinds.check_parts(model, self.configs, self.twins, self.seed)
        models = {model.name: model}
        variants = variants_of(model.name, self.twins, self.configs, self.twin_configs)
        if self.baseline_model is not None:
            how: Any = {"device": self.device, "offline": self.local_files_only}
            found = kinds.load_kind(kinds.name_of_supervised, self.baseline_model, **how)
            baseline = kinds.supervised(found, self.baseline_model)
            kinds.check_parts(baseline, self.baseline_configs or [], [])
            baseline.class_vectors(data.class_names, ())  # refuses classes that it was not trained on
            name = baseline.name if baseline.name != model.name else f"{baseline.name} (baseline)"
            models[name] = baseline
            variants += variants_of(name, [], self.baseline_configs)
        return ClassifierGrid(
            models=models,
            variants=variants,
            conditions=conditions_of(self.corruptions, self.severities),
            twin_conditions=conditions_of(self.corruptions, self.twin_severities),
            data=data.subset(range(self.n_images)),
            calibrations=self.draw_sets(data, self.configs, self.calibration, self.n_calibration),
            **self.protocol(),
        )
