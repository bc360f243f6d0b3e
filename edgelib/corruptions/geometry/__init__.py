"""Corruptions that move pixels: elastic warps, glass, zoom, and resampling by named filters."""

from edgelib.corruptions.geometry import elastic, glass, resample, zoom  # noqa: F401  (fill CORRUPTIONS)
