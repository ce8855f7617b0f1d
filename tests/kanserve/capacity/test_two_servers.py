"""The assumption of a plan that clients spread requests evenly: kanserve's client over two real servers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kanserve.capacity import http2, probe
from kanserve.capacity.generator import Generator, Job
from kanserve.client import calls
from kanserve.client.sync import Client
from tests.support.command_line import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("load")

REQUESTS = 200


def executed(*servers: Server) -> list[float]:
    return [float(np.nan_to_num(probe.executions(server.metrics, "tiny"))) for server in servers]


def test_a_client_and_the_generator_spread_requests_evenly(repository: Path, server: Server, tmp_path: Path) -> None:
    rows = np.zeros((1, 3), np.float32)
    with serving(repository, tmp_path / "log") as other:
        with Client([server.url, other.url]) as client:
            model = client.model("tiny")
            before = executed(server, other)
            for _ in range(REQUESTS):
                client.infer(model, rows)
        until(lambda: sum(executed(server, other)) == sum(before) + REQUESTS)  # counted after the response
        counts = np.subtract(executed(server, other), before)
        assert abs(counts[0] - counts[1]) <= 0.1 * REQUESTS
        call = calls.inference(model, rows)
        block = http2.head(call.path, server.url, secure=False).hex()
        job = Job(places=(server.url, other.url), block=block, message=call.data.hex(), connections=4)
        before = executed(server, other)
        with Generator(job) as load:
            assert (load.send(400.0, 0.5).status == 0).all()
        counts = np.subtract(executed(server, other), before)
        assert (counts > 0).all(), "requests that wait together run together, so there are fewer executions"
