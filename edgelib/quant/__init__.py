"""Quantization: schemes and their names, `quantize`, layers, mixed precision, reports."""
