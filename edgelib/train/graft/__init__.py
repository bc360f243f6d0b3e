"""Grafts: a vision tower that is there and a decoder that is there, made one model by a small connector."""
