"""Fixtures: one shared server for the tests of commands."""

from tests.support.named_models import repository, server  # noqa: F401 - fixtures
