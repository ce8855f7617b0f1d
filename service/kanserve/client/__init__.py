"""The Python client: arrays in, arrays out."""
