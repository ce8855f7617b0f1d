"""Functions of one number, each with two faces: float64 numpy, and ONNX operators."""
