"""Packages around the server, each with its own extra: benchmark, planning, Ray. The core imports none of them."""
