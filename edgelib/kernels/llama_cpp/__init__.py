"""llama.cpp as an engine: it loads GGUF files, gives log-probabilities, is held against simulations, timed."""
