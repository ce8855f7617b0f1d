"""Fixtures of the toy server."""

from tests.support.toy_server import repository, server  # noqa: F401 - fixtures
