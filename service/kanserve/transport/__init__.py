"""Transports, which turn connections into calls of the guarded methods and know no method."""
