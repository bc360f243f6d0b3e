"""Key-value caches on a decoder of text: what each costs its next tokens, and whether range or steps are to blame."""

from __future__ import annotations

import pandas as pd
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.ground.modules import shared_copy
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.scheme import kv_scheme
from edgelib.models.twins import PLAIN, parse_twin
from edgelib.models.twins_kv import plant_in_decoder
from edgelib.study.nature.decoder import Cached
from edgelib.study.nature.grid import DecoderGrid

CACHES = (
    "e4m3-one",
    "e4m3-one-rangeonly",
    "e4m3-one-resolutiononly",
    "e4m3-amax",
    "e5m2-amax",
    "int8-token",
    "int4-token-g32",
    "int4-kivi",
    "nvfp4-amax",
)
CONTROLLED = ("e4m3-one", "e4m3-one-rangeonly", "e4m3-one-resolutiononly", "e4m3-amax")
CONTROL = "key-all:64"  # every channel of the keys leaves what E4M3 holds without a scale


def grown(module: nn.Module, twin: str) -> nn.Module:
    """A decoder of text that computes the same and carries the twin's keys or values; itself for "plain".

    Raises EdgelibError for a twin that is none of keys and values, or that the decoder has no place for.
    """
    if twin == PLAIN:
        return module
    kind, strength = parse_twin(twin)
    result = shared_copy(module)
    if not kind.startswith(("key", "value")) or not plant_in_decoder(result, kind, strength, 0):
        raise EdgelibError(f"{twin!r} cannot be planted in this decoder of text; choose key, value, key-all, value-all")
    return result


def cache_cell(grid: DecoderGrid, twin: str, cache: str) -> pd.DataFrame:
    """Rows of a cache on a twin of the decoder, as `DecoderGrid.rows_of`; the reference is the decoder itself.

    Scales come from the calibration passages, run on that twin.
    """
    module = grown(grid.decoder.module, twin)
    statistics = None
    if kv_scheme(cache).needs_calibration:
        statistics = calibrate_kv(module, [{key: ids[key] for key in ("input_ids",)} for ids in grid.inputs])
    return grid.rows_of(Cached(module, kv_cache(module, cache, statistics)))
