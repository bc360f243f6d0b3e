"""GGUF files written for llama.cpp: decoders and vision towers by a mix, bytes predicted, and importance."""
