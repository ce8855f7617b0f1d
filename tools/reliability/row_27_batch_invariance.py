"""Batch invariance: the output for a row does not depend on the other rows of its batch."""

from __future__ import annotations

import itertools
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.pipeline import Request, export
from kanexport.shared import custom_ops
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.ort import onnxruntime
from kanserve import Client
from kanserve.grpc_api.model_codec import GRAPH
from kanserve.pb import grpc_service_pb2 as pb
from tests.support.server_process import INFERENCE, Server, serving
from tools.reliability.base import Outcome, Row, Scale

ROWS, UNITS = 24, 2.0  # of the last place of the largest answer


def golden(count: int) -> list[Any]:
    """Golden checkpoints of libraries; PyTorch module exports need more than a file."""
    from tests.support import golden_cases

    return [case for case in golden_cases.cases() if not case.name.startswith("hybrid")][:count]


def direct(session: Any, x: np.ndarray) -> np.ndarray:
    """onnxruntime by itself; an `x` at an odd address has other last bits."""
    (result,) = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
    return np.asarray(result)


def units(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units in the last place of the largest output."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    unit = np.spacing(np.abs(expected[finite]).max(initial=np.finfo(expected.dtype).tiny))
    return float(np.abs(found[finite] - expected[finite]).max(initial=0) / unit)


def graph(server: Server, name: str) -> str:
    """The file that the server runs for small batches, as its configuration says."""
    request = pb.ModelConfigRequest(name=name).SerializeToString()
    message = pb.ModelConfigResponse.FromString(server.call(f"{INFERENCE}ModelConfig", request))
    return message.config.parameters[GRAPH].string_value


def alone_in_runtime(path: Path) -> Any:
    """A session of onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if path.name == KERNEL_FILE:
        options.register_custom_ops_library(custom_ops.library())
    return onnxruntime.InferenceSession(str(path), options)


def compare(client: Any, case: Any, path: Path, rng: random.Random, splits: int) -> tuple[int, int, float]:
    """Number of rows that equal those of onnxruntime, number of rows, and the largest difference when batched. `path`:
    the graph that the server runs."""
    model = client.model(case.name)
    x = np.ascontiguousarray(case.reference()["x"][:ROWS], np.float32)
    session = alone_in_runtime(path)
    x = x.astype({"tensor(float)": np.float32, "tensor(double)": np.float64}[session.get_inputs()[0].type])

    def ask(part: np.ndarray) -> np.ndarray:
        return np.asarray(client.infer(model.inputs[0], part, name=case.name).outputs[model.outputs[0].name])

    alone = [ask(x[at : at + 1]) for at in range(len(x))]
    same = sum(
        np.array_equal(alone[at], direct(session, x[at : at + 1].copy()), equal_nan=True) for at in range(len(x))
    )
    together, worst = np.concatenate(alone), 0.0
    for _ in range(splits):
        cuts = sorted({0, len(x), *(rng.randrange(1, len(x)) for _ in range(rng.randrange(6)))})
        parts = [x[a:b] for a, b in itertools.pairwise(cuts)]
        with ThreadPoolExecutor(len(parts)) as pool:
            result = np.concatenate(list(pool.map(ask, parts)))
        worst = max(worst, units(result, together))
    return same, len(x), worst


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The reference rows of every golden model, sent one by one and in random requests and batches."""
    rng, cases, splits = random.Random(seed), golden(scale.of(3, 1000)), scale.of(3, 30)
    worst: dict[str, float] = {}
    same = rows = by_kernel = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for case in cases:
            export(Request(path=case.path, repository=folder, name=case.name, options=case.options))
        with serving(folder, transport=transport, access_log="none") as server, Client(server.address) as client:
            for at, case in enumerate(cases):
                file = graph(server, case.name)
                by_kernel += file == KERNEL_FILE
                result = compare(client, case, folder / case.name / "1" / file, rng, splits)
                same, rows, worst[case.name] = same + result[0], rows + result[1], result[2]
                scale.tell(at + 1, len(cases))
    beyond = {name: round(value, 1) for name, value in worst.items() if value > UNITS}
    figures = {
        "models": len(cases),
        "models that run the custom operators": by_kernel,
        "rows": rows,
        "as onnxruntime gives them, bit by bit": same,
        "models that company does not change": sum(value == 0 for value in worst.values()),
        "most that it changes, in units in the last place": round(max(worst.values()), 1),
        "models beyond 2": len(beyond),
    }
    return Outcome(figures, same == rows and not beyond, rows * (1 + splits), str(beyond or ""))


ROW = Row(
    number="27",
    title="Batch invariance",
    method=(
        "Rows of each golden model are sent unbatched and compared with onnxruntime, and then split at random "
        "into concurrent requests, 30 times."
    ),
    goal=(
        "Unbatched outputs are bit-identical to onnxruntime. Batched outputs differ by at most 2 units in the "
        "last place."
    ),
    result=(
        "{as onnxruntime gives them, bit by bit} of {rows} rows bit-identical. {models that company does not "
        "change} of {models} models unchanged by batching. {models that run the custom operators} models ran the "
        "custom operators."
    ),
    wire=True,
    guarded_by=("tests/integration/test_golden_served.py",),
    run=run,
)
