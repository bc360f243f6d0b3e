"""Grids that stop where a margin is decided: a random part of the outcomes, as much of it as the verdicts need."""
