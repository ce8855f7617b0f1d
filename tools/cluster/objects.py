"""Objects that the releases of the scenarios name: claims with models, and Secrets with certificates and tokens."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from tests.support import credentials, toy_model
from tools.cluster.sandbox import Storage

HEAVY_WIDTH = 1024
HEAVY_SECONDS, LEAST_PRODUCTS = 8e-3, 24  # of a row of the heavy model, about


@dataclass(frozen=True, slots=True)
class Credentials:
    """Arguments of a client for TLS and tokens: a file, a name of the certificate, and a token."""

    ca: str
    server_name: str
    token: str


def models(folder: Path) -> Storage:
    """The claim `models` with the model `toy`."""
    toy_model.write(folder / "models")
    return Storage(claims={"models": folder / "models"})


def heavy_models(folder: Path) -> Storage:
    """The claim `models` with `toy`, and with `heavy`: an ONNX graph of as many matrix products as take HEAVY_SECONDS
    per row on this machine."""
    storage = models(folder)
    target = folder / "models" / "heavy" / "1"
    target.mkdir(parents=True)
    weights = np.eye(HEAVY_WIDTH, dtype=np.float32)
    names = ["x", *(f"h{number}" for number in range(1, _products(weights))), "y"]
    nodes = [helper.make_node("MatMul", [source, "W"], [result]) for source, result in itertools.pairwise(names)]
    shape = ["B", HEAVY_WIDTH]
    graph = toy_model.model(
        nodes, [("x", shape)], [("y", shape)], [numpy_helper.from_array(weights, "W")], TensorProto.FLOAT
    )
    (target / "model.onnx").write_bytes(graph)
    return storage


def _products(weights: npt.NDArray[np.float32]) -> int:
    """The number of products of a row with these weights that take HEAVY_SECONDS, by the best of a few runs."""
    row, best = np.ones((1, len(weights)), np.float32), math.inf
    for _ in range(20):
        began = time.perf_counter()
        np.matmul(row, weights)
        best = min(best, time.perf_counter() - began)
    return max(LEAST_PRODUCTS, math.ceil(HEAVY_SECONDS / best))


def secured(folder: Path) -> tuple[Storage, Credentials]:
    """The claim `models`, the Secrets `tls` and `tokens`, and credentials of a client."""
    files = folder / "credentials"
    files.mkdir()
    credentials.write_certificates(files)
    tokens = credentials.write_tokens(files / "tokens.toml")
    pair = {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}
    secrets = {
        "tls": {key: (files / name).read_bytes() for key, name in pair.items()},
        "tokens": {"tokens.toml": (files / "tokens.toml").read_bytes()},
    }
    return (
        Storage(models(folder).claims, secrets),
        Credentials(str(files / "ca.pem"), "localhost", tokens["infer"]),
    )
