"""Python client: arrays in, arrays out. `from kanserve import Client`, or AsyncClient."""
