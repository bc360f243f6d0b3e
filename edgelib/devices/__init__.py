"""Devices, one file each, measured machines, rooflines and projections; torch only where models are timed."""
