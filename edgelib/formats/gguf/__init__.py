"""The block formats of GGUF files, which llama.cpp reads: encode and decode, byte for byte."""
