"""Verification: the exporter compares every graph with the float64 reference before it writes files."""
