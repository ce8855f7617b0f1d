"""Fixtures: one server with toy models, for tests that only read from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import loop_stalls, toy_model
from tests.support.server_process import Server, serving
from tests.support.tiers import full

_NEEDS_H2CORN = pytest.mark.skipif(importlib.util.find_spec("h2corn") is None, reason="h2corn is not installed")
TRANSPORTS = (pytest.param("asgi", marks=_NEEDS_H2CORN), "grpcio")
# Of a suite whose behavior comes from code that both share.
SHARED = (TRANSPORTS[0], pytest.param("grpcio", marks=full("second transport")))


@pytest.fixture(autouse=True)
def _the_loop_turns(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test holds up the event loop of a server, unless `stalls(seconds, why)` marks the test."""
    loop_stalls.longest()
    yield
    result, marker = loop_stalls.longest(), request.node.get_closest_marker("stalls")
    most = loop_stalls.LIMIT if marker is None else marker.args[0]
    if result is not None and result.cpu > most:
        pytest.fail(f"the event loop of a server did not turn for {result.cpu:.2f} s of its own, at:\n{result.at}")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy in versions 1 and 2, and toy64 with float64 tensors."""
    root = tmp_path_factory.mktemp("repository")
    toy_model.write(root, version=1)
    toy_model.write(root, version=2)
    toy_model.write(root, "toy64", datatype="FP64", tolerance=1e-12)
    return root


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return str(request.param)


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(repository: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server over `repository`, by each transport; tests leave it as it is."""
    # A test waits until a connection that never finishes its handshake is dropped.
    limits = {"max_response_bytes": 65536, "handshake_timeout": 3.0}
    with serving(repository, transport=request.param, **limits) as running:
        yield running
