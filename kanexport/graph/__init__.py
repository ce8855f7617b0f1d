"""ONNX graph construction: builder, composition, external data, and operators that a runtime lacks."""
