"""Server with TLS and client certificates, for tests that only read from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import certificates, toy_model
from tests.support.server_process import Server, serving


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toy_model.write(root)
    return root


def secured(models: Path, files: Path, transport: str, **settings: Any) -> Any:
    if transport == "asgi":
        pytest.importorskip("h2corn")
    pair = {"tls_cert": str(files / "server.pem"), "tls_key": str(files / "server.key")}
    return serving(models, transport=transport, **pair, **settings)


@pytest.fixture(scope="module", params=["asgi", "grpcio"])
def server(models: Path, files: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with TLS and without client authentication."""
    with secured(models, files, request.param) as running:
        yield running
