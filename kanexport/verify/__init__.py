"""Verification: every graph against the float64 reference, before anything is published."""
