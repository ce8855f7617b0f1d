"""Runtimes that execute graphs. One file per runtime, found by its name."""
