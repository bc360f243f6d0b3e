"""Models on data: images or questions in, one outcome row per item out."""
