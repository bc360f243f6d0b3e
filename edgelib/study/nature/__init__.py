"""Twins against nature: a real decoder and the outlier twins, their states and their rankings of methods."""
