"""Memory by request size: memory use does not grow with the sizes of requests."""

from __future__ import annotations

import random

import numpy as np

from tests.support import toy_model
from tests.support.server_process import INFERENCE, request
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import mib, settled, toys
from tools.reliability.load import closed

SIZES = toy_model.BATCH  # rows: 1 to 64


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Memory after 10% of the requests, and after all."""
    count = scale.of(5_000, 1_000_000)
    rng = np.random.default_rng(seed)
    data = [request(rng.normal(size=(rows, 3)).astype(np.float32)).SerializeToString() for rows in range(1, SIZES + 1)]
    random.Random(seed).shuffle(data)
    with toys(transport) as server:
        settled(server)
        first = closed(server.address, f"{INFERENCE}ModelInfer", data, count // 10)
        early = mib(server)
        rest = closed(server.address, f"{INFERENCE}ModelInfer", data, count - count // 10, scale)
        late = mib(server)
    lost = first.lost + rest.lost
    growth = 100 * (late / early - 1)
    figures = {
        "requests": count,
        "sizes": SIZES,
        "lost": lost,
        "RSS at 10 % in MiB": round(early, 1),
        "at 100 %": round(late, 1),
        "growth in %": round(growth, 2),
    }
    return Outcome(figures, growth < 2 and not lost, count)


ROW = Row(
    number="17",
    title="Memory with many request sizes",
    method="16 clients send 1,000,000 requests of 1 to 64 rows in mixed order.",
    goal="Memory grows by less than 2% after the first 10% of the requests.",
    result="{growth in %}% ({RSS at 10 % in MiB} to {at 100 %} MiB), {lost} requests lost.",
    wire=True,
    run=run,
    minutes=30,
)
