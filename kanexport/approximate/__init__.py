"""Fewer bits, on request: which branches can have them, what that changes, and the proof of it."""
