"""Calibration in the order of a network: each layer sees what the layers before it give once they are rounded."""
