"""Scalar functions with two implementations: float64 numpy, and ONNX operators."""
