"""Fixtures: one server with the toy models."""

from tests.support.toy_server import _the_loop_turns, repository, server, transport  # noqa: F401 - fixtures
