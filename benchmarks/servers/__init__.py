"""Benchmark of the gRPC transports against no-op baselines, other Python servers and Triton, interleaved."""
