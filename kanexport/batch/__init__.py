"""Batch export: every checkpoint of a folder, each in its own process."""
