"""Quantization on request: sensitivity, plan, quantized network and its verification."""
