"""Fixtures: one shared server for the tests of commands."""

from tests.support.command_line_server import repository, server  # noqa: F401 - fixtures
