"""Benchmark of a user's model on this machine, next to other runtimes, each time with its error."""
