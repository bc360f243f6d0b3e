"""GGUF files as models: how llama.cpp names tensors and sizes, and how a file becomes a network again."""
