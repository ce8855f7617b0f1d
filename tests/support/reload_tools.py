"""Model versions for hot reload, and traffic of a known distribution."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import numpy_helper

from kanexport.shared import manifest as manifests
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.types import Array
from tests.support import toy_model, wait
from tests.support.server_process import INFERENCE, Server, request
from tests.support.wait import until as until

ROWS = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], np.float32)
_numbers = itertools.count()


def write(target: Path, factor: float = 1.0, *, name: str = "toy", version: int = 1, pad: int = 0) -> Path:
    """The files of a version, written one by one, the manifest last. Reference rows as the factor has them. `pad`:
    bytes more, which the graph has and does not use."""
    files = {
        manifests.MODEL_FILE: scaled(toy_model.graph(), "W1", factor, pad),
        "edges_l0.onnx": toy_model.edge_graph(0),
        "edges_l1.onnx": scaled(toy_model.edge_graph(1), "W", factor),
    }
    return toy_model.put(target, files, toy_model.manifest(name, version, scale=factor))


def scaled(graph: bytes, weight: str, factor: float, pad: int = 0) -> bytes:
    """The graph with one of its weights times a factor."""
    model = onnx.load_from_string(graph)
    if pad:
        model.doc_string = "x" * pad
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight))
    return model.SerializeToString()


def swap(source: Path, target: Path) -> None:
    """A copy of a version takes the place of another, as `kanserve export --force` does it: in two renames."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number = next(_numbers)
    staging, aside = (target.with_name(f".kanexport-{what}-{number}") for what in ("new", "old"))
    shutil.copytree(source, staging)
    if target.exists():
        target.rename(aside)
    staging.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def index(server: Server) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason by model and version."""
    response = pb.RepositoryIndexResponse.FromString(server.call(f"{INFERENCE}RepositoryIndex", b""))
    return {(item.name, item.version): (item.state, item.reason) for item in response.models}


def ready(server: Server) -> bool:
    """Return whether the server reports that it is ready."""
    return pb.ServerReadyResponse.FromString(server.call(f"{INFERENCE}ServerReady", b"")).ready


def factor(server: Server, model: str = "toy", version: str = "") -> float:
    """The factor of the outputs, which shows the content that the server runs."""
    result = server.infer(ROWS, model, model_version=version)
    ratio = result / toy_model.outputs(ROWS)
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-5), ratio
    return float(2.0 ** np.round(np.log2(ratio[0, 0])))


def events(server: Server, *names: str) -> list[dict]:
    """The log's lines of these names."""
    return [line for line in server.lines() if line["event"] in names]


def sample(text: str, name: str) -> float:
    """One number of a metrics page; 0 where it is not there."""
    result = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == name]
    return result[0] if result else 0.0


class Clients:
    """Closed-loop clients, each with a connection. They compare each response with the bytes in `allowed`, by
    version (0: any)."""

    def __init__(self, server: Server, count: int, allowed: dict[int, set[bytes]]) -> None:
        self.failed: list[str] = []
        self.wrong = 0
        self.seen: Counter[tuple[int, bytes]] = Counter()
        self.slowest = 0.0
        self._server, self._allowed, self._stop = server, allowed, threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    @property
    def served(self) -> int:
        """Responses so far."""
        return sum(self.seen.values())

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def until(self, responses: int) -> None:
        """Wait for so many more, or for the first failure."""
        goal = self.served + responses
        wait.until(lambda: self.served >= goal or self.failed)

    def _work(self) -> None:
        """Connect again after an error: a channel that waits to do so would fail thousands of calls."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        while not self._stop.is_set():
            with grpc.insecure_channel(self._server.address, own) as channel:
                self._ask(channel.unary_unary(f"{INFERENCE}ModelInfer"))

    def _ask(self, call: Any) -> None:
        """Call until the end, or the first error."""
        data = request(ROWS).SerializeToString()
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                response = pb.ModelInferResponse.FromString(call(data, timeout=60))
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
                return
            self.slowest = max(self.slowest, time.monotonic() - begun)
            version, raw = int(response.model_version), response.raw_output_contents[0]
            self.seen[version, raw] += 1
            self.wrong += raw not in self._allowed.get(version, self._allowed.get(0, set()))


def shown(server: Server, name: str) -> float:
    """One number of the server's metrics."""
    return sample(server.metrics(), name)


def handled(server: Server, *labels: str) -> float:
    """The calls of gRPC that the server has finished and counts under all of these labels."""
    lines = [line for line in server.metrics().splitlines() if line.startswith("grpc_server_handled_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(f'"{label}"' in line for label in labels))


def memory(server: Server) -> float:
    """MiB of the server's process."""
    return shown(server, "process_resident_memory_bytes") / 2**20


def slope(values: list[float]) -> float:
    """Return the rise, from first to last, of a line fitted to equally spaced values."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0] * (len(values) - 1)) if len(values) > 1 else 0.0


@contextlib.contextmanager
def kept(path: Path) -> Iterator[Path]:
    """A copy in the same folder, from which the test can restore the original."""
    copy = path.with_name(f".kept-{next(_numbers)}")
    shutil.copytree(path, copy)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)


def responses(factor: float) -> bytes:
    """Return the bytes of a server's outputs for ROWS."""
    import onnxruntime

    session = onnxruntime.InferenceSession(scaled(toy_model.graph(), "W1", factor), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": ROWS})[0], "<f4").tobytes()


def truncate(path: Path, size: int = 0) -> None:
    """In place, as long as it is there."""
    os.truncate(path, size)


RNG = np.random.default_rng(9)
TRAIN = RNG.normal(size=(2000, 3)).astype(np.float32)


def draw(count: int, *, moved: float = 0.0) -> np.ndarray:
    rows = RNG.normal(size=(count, 3)).astype(np.float32)
    rows[:, 2] += moved
    return rows


def value(server: Server, name: str, layer: str = "") -> float:
    """Return the value of a metric of the toy model, or -1 if the metric is missing."""
    first = f'layer="{layer}",' if layer else ""
    result = re.search(rf'^{name}{{{first}model="toy",version="\d+"}} (\S+)$', server.metrics(), re.MULTILINE)
    return float(result[1]) if result else -1.0


def run(names: Any, rows: Any) -> list[Array]:
    """The toy's graph."""
    result = {"layer1_in": toy_model.hidden(rows["x"]), "y": toy_model.outputs(rows["x"])}
    return [result[name] for name in names]
