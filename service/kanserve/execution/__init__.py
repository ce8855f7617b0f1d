"""Execution of requests: execution plan of a version, and executor with batching."""
