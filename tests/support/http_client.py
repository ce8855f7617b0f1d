"""HTTP helpers: each way that a server speaks HTTP, and plain requests."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import toy_model
from tests.support.server_process import Server, serving

HYPERCORN = ("tests.support.hypercorn_transport", "Hypercorn")
WAYS = ("asgi", "grpcio", "hypercorn")  # grpcio with a second port
ROWS = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: Server, path: str, body: Any = None, method: str = "", timeout: float = 60, **headers: str) -> Reply:
    """Send one request on a separate connection. `body`: bytes, or a value that becomes JSON. Names of headers have _
    for -."""
    connection = http.client.HTTPConnection(server.http, timeout=timeout)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        result = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, result, answer.read())
    finally:
        connection.close()


def infer(server: Server, body: Any, model: str = "toy", **headers: str) -> Reply:
    """POST .../infer."""
    return ask(server, f"/v2/models/{model}/infer", body, **headers)


def tensor(rows: np.ndarray = ROWS, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    """An input of the toy, as JSON."""
    return {"name": "x", "datatype": datatype, "shape": list(rows.shape), "data": rows.ravel().tolist(), **more}


def way(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the arguments of `serving` for one of WAYS: a transport of the tests and settings."""
    if name == "hypercorn":
        return HYPERCORN, {}
    pytest.importorskip("h2corn")
    return (), {"transport": "asgi"} if name == "asgi" else {"transport": "grpcio", "http_port": 0}


def running(name: str, root: Path, **settings: Any) -> Iterator[Server]:
    """A server over two versions of the toy, and one of float64."""
    toy_model.write(root)
    toy_model.write(root, version=2)
    toy_model.write(root, "toy64", datatype="FP64", tolerance=1e-12)
    plugin, chosen = way(name)
    with serving(root, plugin, **chosen, **settings) as server:
        yield server
