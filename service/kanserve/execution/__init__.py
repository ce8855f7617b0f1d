"""Execution of requests: plan per version, executor with batching, and the fast path."""
