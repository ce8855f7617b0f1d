"""Tests of `auth/permissions.py`."""

import asyncio
from pathlib import Path

from kanserve.auth.permissions import INCLUDES, NEEDS, Role
from kanserve.config.settings import Settings
from kanserve.server.app import App
from tests.support import credentials, toy_model


def test_every_method_and_route_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    toy_model.write(tmp_path)

    async def wired() -> set[str]:
        app = App(Settings(repository=tmp_path, grpc_port=0, metrics_port=0, reflection=True))
        return app.guard.names

    there = asyncio.run(wired())
    assert there == set(NEEDS)
    assert set(credentials.METHODS) <= there


def test_who_includes_whom() -> None:
    assert {role: set(INCLUDES[role]) for role in Role} == {
        Role.READ: {Role.READ},
        Role.INFER: {Role.INFER, Role.READ},
        Role.INTERPRET: {Role.INTERPRET, Role.READ},
        Role.ADMIN: {*Role},
    }
