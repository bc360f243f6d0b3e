"""Sentences rendered from test objects."""
