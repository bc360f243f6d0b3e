"""What names a variant of a model in the specs of cells: its twin, its scheme and what that is calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from edgelib.quant.scheme import scheme


def identity(twin: str, config: str, calibrated_on: Callable[[], str]) -> list:
    """Return plain values that name a variant: the twin, the scheme in full, the fingerprint of the calibration set.

    calibrated_on: returns that fingerprint; asked only where the scheme needs one, and None elsewhere.
    """
    meaning, calibrated = _read(config)
    return [twin, meaning, calibrated_on() if calibrated else None]


@lru_cache(maxsize=4096)
def _read(config: str) -> tuple[dict, bool]:
    """To read the name of a scheme takes longer than to read a stored cell."""
    chosen = scheme(config)
    return chosen.to_dict(), chosen.needs_calibration
