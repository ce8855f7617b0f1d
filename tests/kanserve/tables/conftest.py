"""Fixtures: one shared server for the tests of commands that read and write files of rows."""

from tests.support.named_models import repository, server  # noqa: F401 - fixtures
