"""Analysis: pure functions for attribution, drift, coverage, curves and formulas. No files, no wire."""
