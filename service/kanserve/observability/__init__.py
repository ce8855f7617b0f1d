"""Observability of the process: metrics, logs, traces and statistics."""
