"""The ONNX side of everything: the graph builder, and functions that a runtime lacks."""
