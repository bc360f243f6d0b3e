"""Weather: fog, frost, light, snow, and what splashes on the lens."""

from edgelib.corruptions.weather import fog, frost, light, snow, spatter  # noqa: F401  (fill CORRUPTIONS)
