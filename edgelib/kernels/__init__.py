"""Real kernels behind one table: torch, torchao, ONNX Runtime, OpenVINO; what each computes."""
