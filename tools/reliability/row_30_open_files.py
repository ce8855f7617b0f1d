"""Exhaustion of file descriptors and connections."""

from __future__ import annotations

import time

from tests.integration.wire.test_open_files import crowd, newcomer
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import answers, company, settled, toys

FILES = 96


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """A crowd of connections that say nothing, more than there are descriptors; again and again."""
    rounds, idle = scale.of(1, 10), scale.of(300, 1000)
    back, errors, calls = [], 0, 0
    with toys(transport, files=FILES) as server:
        settled(server)  # its client's connection is there now
        for at in range(rounds):
            with company(server) as (beside,), crowd(server.port, idle):
                until(lambda beside=beside: len(beside.seconds) >= 50)
            begun = time.monotonic()
            until(lambda: newcomer(server))
            back.append(time.monotonic() - begun)
            errors, calls = errors + len(beside.errors), calls + len(beside.seconds)
            scale.tell(at + 1, rounds)
        alive = answers(server)
    figures = {
        "rounds": rounds,
        "idle connections": idle,
        "descriptors": FILES,
        "calls on a connection that was there": calls,
        "that failed": errors,
        "new ones after s, at most": round(max(back), 2),
    }
    return Outcome(figures, alive and not errors and max(back) <= 5, rounds)


ROW = Row(
    number="30",
    title="Descriptor exhaustion",
    method="1000 idle connections are opened to a server that can open 96 files.",
    goal="Existing connections keep working. New connections succeed within 5 s afterwards.",
    result=(
        "{that failed} of {calls on a connection that was there} calls failed, new connections within {new ones "
        "after s, at most} s."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_open_files.py",),
    run=run,
)
