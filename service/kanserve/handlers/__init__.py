"""The use cases: plain data in, plain data out; no transport."""
