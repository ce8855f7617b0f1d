"""Fixtures: one server with the toy models by each transport. A test may be a coroutine."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import Server, _the_loop_turns, hold, repository, serving  # noqa: F401 - fixtures
from tests.support.tiers import full

TRANSPORTS = ["asgi", pytest.param("grpcio", marks=full("second transport"))]
WAYS = [*TRANSPORTS, pytest.param("hypercorn", marks=full("peer"))]  # to speak HTTP


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(repository: Path, request: pytest.FixtureRequest) -> Iterator[Server]:  # noqa: F811 - a fixture
    """A server over `repository`, by each transport; tests leave it as it is."""
    with serving(repository, transport=request.param, max_response_bytes=65536) as running:
        yield running


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, on a separate event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
