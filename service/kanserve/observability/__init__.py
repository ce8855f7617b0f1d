"""Metrics, logs, traces and statistics of the process."""
