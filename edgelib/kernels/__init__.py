"""Real kernels behind one table: torch, torchao, ONNX Runtime; what each computes."""
