"""Mixes of GGUF types, as llama.cpp's files have them, on any model: which weight gets which type, and why."""
