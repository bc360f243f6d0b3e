"""Families of models: one file each, saying what is special about it, and one line in `writers` or `duals`."""
