"""Key-value caches that store formats: codecs, scale policies, calibration, health, drift."""
