"""Figures: rows and an axis in, the axis out."""
