"""Scheduling: request queue and batches. Pure functions without clock and event loop."""
