"""The chapter `fp8_kv_ablation`: what an 8-bit key-value cache costs, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgelib.chapters.schema.base import Answers, Questions, kinds
from edgelib.chapters.schema.fields import MOST_ITEMS, Caches, Columns, Name, Source, Twins, distinct, twin_name
from edgelib.chapters.schema.present import Draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgelib.data.questions import QuestionSet
    from edgelib.study.kv_grid import KVStudy

Doses = Annotated[
    list[Annotated[float, Field(ge=1, le=1e9)]], Field(min_length=2), AfterValidator(distinct), AfterValidator(sorted)
]
DoseKind = Literal["key", "value", "key-offset", "key-all", "value-all"]
DoseKinds = Annotated[list[DoseKind], Field(min_length=1), AfterValidator(distinct)]


def games(format: str) -> dict[str, dict[tuple[str, ...], str]]:
    """The factorial experiments: by name, the cache in which each subset of factors acts.

    cause, part, tokens: of a cache with scale 1. delivery: of one whose calibrated scales are lost on the way.
    """
    from edgelib.study.kv_grid import EXACT

    whole, lost = f"{format}-one", f"{format}-amax"
    alone = {
        "cause": {"range": "rangeonly", "resolution": "resolutiononly"},
        "part": {"keys": "konly", "values": "vonly"},
        "tokens": {"image": "text16", "text": "image16"},
    }
    pairs = {
        name: {(): EXACT, **{(factor,): f"{whole}-{word}" for factor, word in own.items()}, tuple(own): whole}
        for name, own in alone.items()
    }
    cells = {
        (): EXACT,
        ("range",): f"{lost}-rangeonly",
        ("resolution",): f"{lost}-resolutiononly",
        ("range", "resolution"): lost,
    }
    without = {("lost scale",): f"{lost}-undelivered-scaleonly"} | {
        (*factors, "lost scale"): f"{cache}-undelivered" for factors, cache in cells.items() if factors
    }
    return pairs | {"delivery": cells | without}


def dosed(kind: str, dose: float) -> str:
    """The name of a twin."""
    return twin_name(f"{kind}:{dose!r}")


class Fp8KvAblation(Answers):
    """Parameters of the chapter `fp8_kv_ablation`."""

    dataset: Questions = Field("scenes-vqa", description="questions about images")
    split: Name = Field("test", description="split of the questions")
    columns: Columns = Field({}, description="column names, as in {question: q, answer: gt, image: path}")
    images: Annotated[Name, Source()] | None = Field(
        None, description="folder of the image files, where it lies apart from the questions"
    )
    n_images: int = Field(8, ge=4, le=MOST_ITEMS, description="images, each with all of its questions")
    format: Literal["e4m3", "e5m2", "int8", "int4"] = Field("e4m3", description="format of the cache that is examined")
    attention: Literal["fp8_e4m3", "fp8_e5m2", "int8"] = Field(
        "fp8_e4m3", description="format of the second ablation, in which attention computes"
    )
    twins: Twins = Field(["key:1024"], description="planted outliers that the ladder is climbed on")
    dose_kinds: DoseKinds = Field(["key"], description="kinds of planted outliers of the dose-response curves")
    doses: Doses = Field([64.0, 1024.0], description="strengths of the planted outliers")
    dose_schemes: Caches = Field(["e4m3-one", "int8-amax"], description="caches of the dose-response curves")
    fixes: Caches = Field(
        ["e4m3-amax", "int8-channel", "int4-channel-mean"],
        description="caches that are tested for non-inferiority to the exact one",
    )
    margin: float = Field(0.01, gt=0, lt=1, description="accuracy that a non-inferior cache may lose")
    steps: int = Field(2, ge=2, le=256, description="tokens that are written to see whether errors grow")
    max_new_tokens: int = Field(4, ge=1, le=4096, description="longest answer, in tokens")

    def reading(self) -> dict[str, Any]:
        """How the data set is read, as `dataset` and `calibration_set` take it."""
        return {"offline": self.local_files_only, "columns": self.columns, "images": self.images}

    def load_data(self) -> QuestionSet:
        """The questions that are scored."""
        from edgelib.data.datasets import dataset

        found = dataset(self.dataset, self.split, self.n_images, self.seed, **self.reading())
        return kinds.questions(found, self.dataset)

    def data_sets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """The questions."""
        return {"dataset": (self.dataset, self.load_data)}

    def draws(self) -> Iterable[Draw]:
        """The calibration set."""
        return [Draw("dataset", self.calibration, self.n_calibration, self.dataset, self.reading())]

    def study(self) -> KVStudy:
        """Load what the parameters name and lay out the cells: two ablations, three ladders, fixes, doses.

        Calibration questions come from the data set's training split, or from items that are not scored. Raises
        EdgelibError for whatever cannot be loaded.
        """
        from edgelib.data.calibration import calibration_set
        from edgelib.models.twins import PLAIN
        from edgelib.study.kv_grid import EXACT, KVStudy, KVVariant

        twins = [dosed(kind, dose) for kind in self.dose_kinds for dose in self.doses]
        model = self.load_model()
        data = self.load_data()
        kinds.check_parts(model, [], [*self.twins, *twins], self.seed)
        calibration: Any = calibration_set(
            self.calibration, self.n_calibration, self.seed, self.dataset, exclude=data, **self.reading()
        )
        places = [PLAIN, *self.twins]
        caches = [*(cache for cells in games(self.format).values() for cache in cells.values()), *self.fixes]
        cells = {(KVVariant(cache), twin): None for twin in places for cache in caches}
        ablation = [KVVariant(cache, self.attention) for cache in (EXACT, f"{self.format}-amax")]
        cells |= {(variant, twin): None for twin in places for variant in ablation}
        cells |= {(KVVariant(cache), twin): None for twin in twins for cache in (EXACT, *self.dose_schemes)}
        return KVStudy(
            model=model,
            asked=tuple(cells),
            data=data,
            calibration=calibration,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
