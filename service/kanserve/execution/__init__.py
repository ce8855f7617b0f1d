"""Execution of requests: execution plan of a version, executor with batching, and the fast path."""
