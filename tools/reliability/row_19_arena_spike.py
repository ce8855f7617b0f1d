"""Memory after one large batch: the server releases the memory of the batch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.support import toy_model
from tests.support.server_process import INFERENCE, request, serving
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import mib
from tools.reliability.load import closed

MOST = 64  # rows of the largest batch of the toy's manifest


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The spike: 32 batches as large as they may be, by callers at once."""
    count, width = scale.of(300, 10_000), scale.of(500, 1500)
    rng = np.random.default_rng(seed)
    small, large = (
        request(rng.normal(size=(rows, width)).astype(np.float32), "wide").SerializeToString() for rows in (1, MOST)
    )
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write_wide(Path(folder), width)
        with serving(Path(folder), transport=transport, access_log="none") as server:
            closed(server.address, f"{INFERENCE}ModelInfer", [small], 200)
            before = mib(server)
            spike = closed(server.address, f"{INFERENCE}ModelInfer", [large], 32)
            peak = mib(server, "VmHWM")
            after = closed(server.address, f"{INFERENCE}ModelInfer", [small], count, scale)
            late = mib(server)
    figures = {
        "small requests": count,
        "lost": spike.lost + after.lost,
        "RSS before in MiB": round(before, 1),
        "peak": round(peak, 1),
        "after": round(late, 1),
        "more in %": round(100 * (late / before - 1), 1),
    }
    return Outcome(figures, late < 1.1 * before and not spike.lost + after.lost, count)


ROW = Row(
    number="19",
    title="Memory after large batches",
    method=(
        "16 clients send batches of 64 rows to a model with 2.25 million edges, and then 10,000 requests of one row."
    ),
    goal="Memory is within 10% of its value before.",
    result="{RSS before in MiB} MiB before, {peak} at the peak, {after} after ({more in %}%).",
    wire=True,
    guarded_by=("tests/integration/wire/test_memory_bounds.py::test_messages_that_were_refused_are_let_go",),
    run=run,
)
