"""Lowering: from a Kan to ONNX graphs for inference, edges and attribution."""
