"""Fairness: effect of load on one model on the latency of another model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.support import toy_model
from tests.support.server_process import INFERENCE, request, serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import company, milliseconds, settled
from tools.reliability.load import asking

WIDTH = 1000


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Clients and server share the cores of this machine."""
    calls = scale.of(150, 1500)  # of B, one every 20 ms
    large = request(np.ones((64, WIDTH), np.float32), "wide").SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        toy_model.write_wide(Path(folder), WIDTH)
        with serving(Path(folder), transport=transport, access_log="none") as server:
            settled(server)
            with company(server) as (alone,):
                until(lambda: len(alone.seconds) >= calls)
            path = f"{INFERENCE}ModelInfer"
            with asking(server.address, path, [large], callers=64, nice=10) as reported, company(server) as (busy,):
                until(lambda: len(busy.seconds) >= calls)
            answered = reported()
    idle, beside = milliseconds(alone.seconds), milliseconds(busy.seconds)
    figures = {
        "calls of B": len(busy.seconds),
        "errors of B": len(busy.errors),
        "p99 alone in ms": idle,
        "p99 beside A": beside,
        "times": round(beside / idle, 1),
        "calls of A answered": answered,
    }
    return Outcome(
        figures,
        beside <= 2 * idle and not busy.errors,
        len(busy.seconds),
        "all on the same cores; the callers of A give way to B's, at nice 10",
    )


ROW = Row(
    number="29",
    title="Fairness",
    method=(
        "64 clients send requests of 64 rows to model A (a million edges) without pause. Model B gets one row "
        "every 20 ms."
    ),
    goal="p99 of B is at most 2 times its value without A, no error of B.",
    result="p99 {p99 beside A} ms with A, {p99 alone in ms} ms without A ({times} times), {errors of B} errors.",
    wire=True,
    run=run,
)
