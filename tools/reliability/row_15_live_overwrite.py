"""Live overwrite: in-place truncation and overwrite of the files of a version that serves."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np

from kanserve.pb import kan_pb2
from tests.support import reload_tools, toy_model
from tests.support.server_process import KAN, Server, serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite


def edges(server: Server) -> bool:
    """Whether an edge query has the right values. The first query makes its graphs."""
    query = kan_pb2.QueryEdgesRequest(
        model_name="toy", rows=reload_tools.ROWS.tobytes(), row_count=len(reload_tools.ROWS)
    )
    answer = kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", query.SerializeToString()))
    result = np.frombuffer(answer.layers[1].values, "<f4").reshape(len(reload_tools.ROWS), 4, 2)
    return bool(np.allclose(result, toy_model.edges(reload_tools.ROWS, 1), rtol=1e-5))


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Cut, filled with noise, or grown; sometimes put right again."""
    times, chance = scale.of(10, 100), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        directory = reload_tools.write(Path(folder, "toy", "1"))
        contents = {path: path.read_bytes() for path in directory.iterdir()}
        allowed = {1: {reload_tools.responses(1.0)}}
        with (
            serving(Path(folder), repository_poll_seconds=0.05, access_log="none") as server,
            reload_tools.Clients(server, 2, allowed) as asking,
        ):
            right = 0
            for at in range(times):
                path, data = chance.choice(sorted(contents.items()))
                size = chance.randrange(2 * len(data))
                with path.open("r+b") as file:
                    if chance.random() < 0.5:
                        file.truncate(size)
                    else:
                        file.write(chance.randbytes(size))
                asking.until(50)
                right += edges(server)
                if at % 5 == 4:
                    for whole, data in contents.items():
                        whole.write_bytes(data)
                scale.tell(at + 1, times)
            for whole, data in contents.items():
                whole.write_bytes(data)
            until(lambda: reload_tools.index(server)["toy", "1"] == ("READY", ""))
            alive = server.process.poll() is None
    figures = {
        "changes in place": times,
        "answered": asking.served,
        "lost": len(asking.failed),
        "wrong": asking.wrong,
        "edge queries right": right,
    }
    return Outcome(figures, alive and right == times and not asking.failed and not asking.wrong, times)


ROW = Row(
    number="15",
    title="File changes of a loaded version",
    method="The files of a served version are truncated or overwritten in place, 100 times.",
    goal="No SIGBUS, no changed output.",
    result="{answered} responses: {lost} lost, {wrong} wrong.",
    run=run,
)
test_row = suite(ROW)
