"""Rows of numbers in files: NumPy, CSV, JSON, Parquet, Arrow IPC and Feather, to read and to write."""
