"""Fixtures: one server with the toy models."""

from tests.support.server_process import _the_loop_turns, hold, repository, server, transport  # noqa: F401 - fixtures
