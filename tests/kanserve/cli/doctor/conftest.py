"""Fixtures: one server with the toy models."""

from tests.support.toy_server import repository, server  # noqa: F401 - fixtures
