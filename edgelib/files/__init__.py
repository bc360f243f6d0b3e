"""Files of quantized models: packed and reloaded, exported, their bytes predicted."""
