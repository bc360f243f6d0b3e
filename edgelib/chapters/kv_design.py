"""The experiment of the cache chapter: which caches meet which twins, from a chapter's parameters."""

from __future__ import annotations

from typing import Protocol

from edgelib.data.calibration import calibration_set
from edgelib.data.datasets import dataset
from edgelib.models.load import load
from edgelib.models.twins import PLAIN
from edgelib.study.kv_grid import EXACT, KVStudy, KVVariant


class KVParameters(Protocol):
    """The parameters that a study of caches is made from."""

    model: str
    dataset: str
    split: str
    n_images: int
    calibration: str
    n_calibration: int
    format: str
    attention: str
    twins: list[str]
    dose_kinds: list[str]
    doses: list[float]
    dose_schemes: list[str]
    fixes: list[str]
    max_new_tokens: int
    seed: int
    batch_size: int
    device: str
    local_files_only: bool


def games(format: str) -> dict[str, dict[tuple[str, ...], str]]:
    """The factorial experiments: by name, the cache in which each subset of factors acts.

    cause, part, tokens: of a cache with scale 1. delivery: of one whose calibrated scales are lost on the way.
    """
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
    return f"{kind}:{dose:g}"


def study_of(p: KVParameters) -> KVStudy:
    """Load what the parameters name and lay out the cells: two ablations, three ladders, fixes, doses.

    Calibration questions come from the data set's training split, or from items that are not scored. Raises
    EdgelibError for whatever cannot be loaded.
    """
    reading = {"offline": p.local_files_only}
    data = dataset(p.dataset, p.split, p.n_images, p.seed, **reading)
    places = [PLAIN, *p.twins]
    caches = [*(cache for cells in games(p.format).values() for cache in cells.values()), *p.fixes]
    cells = {(KVVariant(cache), twin): None for twin in places for cache in caches}
    ablation = [KVVariant(cache, p.attention) for cache in (EXACT, f"{p.format}-amax")]
    cells |= {(variant, twin): None for twin in places for variant in ablation}
    twins = [dosed(kind, dose) for kind in p.dose_kinds for dose in p.doses]
    cells |= {(KVVariant(cache), twin): None for twin in twins for cache in (EXACT, *p.dose_schemes)}
    return KVStudy(
        model=load(p.model, device=p.device, offline=p.local_files_only),
        asked=tuple(cells),
        data=data,
        calibration=calibration_set(p.calibration, p.n_calibration, p.seed, p.dataset, exclude=data, **reading),
        seed=p.seed,
        max_new_tokens=p.max_new_tokens,
        batch_size=p.batch_size,
    )
