"""Fixtures of the server that commands ask."""

from tests.support.command_line_server import repository, server  # noqa: F401 - fixtures
