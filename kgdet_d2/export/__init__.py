"""Models as files that run without this package: ONNX, and PyTorch's own .pt2."""
