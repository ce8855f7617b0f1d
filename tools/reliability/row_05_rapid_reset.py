"""Rapid reset (CVE-2023-44487): streams that a client opens and resets at once."""

from __future__ import annotations

import contextlib
import struct

from tests.support import attacks
from tests.support.server_process import Server
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import SUCCESS, company, mib, milliseconds, sample, settled, toys

AT_ONCE = 1000  # streams of one connection, unless the server ends it before
CALLS = 100  # of the other client, one every 20 ms, while it is alone and after the attack


def resets(server: Server, count: int) -> tuple[int, int]:
    """So many streams; over how many connections."""
    block, sent, connections = attacks.headers(), 0, 0
    while sent < count:
        connections += 1
        with contextlib.suppress(OSError), attacks.connect(server.port) as peer:
            for stream in range(1, 2 * AT_ONCE, 2):
                peer.sendall(
                    attacks.frame(attacks.HEADERS, 4, stream, block)
                    + attacks.frame(attacks.RST, 0, stream, struct.pack(">I", 8))
                )
                sent += 1
    return sent, connections


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """A valid client sends a request every 20 ms, before and during the attack."""
    with toys(transport) as server:
        settled(server)
        with company(server) as (alone,):
            until(lambda: len(alone.seconds) >= CALLS)
        before, requested = mib(server), sample(server, SUCCESS)
        with company(server) as (beside,):
            sent, connections = resets(server, scale.of(2_000, 20_000))
            before_end = len(beside.seconds)
            until(lambda: len(beside.seconds) >= before_end + CALLS)  # they are read later than they were sent
        grown, ran = mib(server) - before, sample(server, SUCCESS) - requested
        settled(server)
    idle, busy = milliseconds(alone.seconds), milliseconds(beside.seconds)
    foreign = ran - (len(beside.seconds) - len(beside.errors))
    figures = {
        "resets": sent,
        "connections": connections,
        "handlers run for them": int(foreign),
        "p99 of others in ms": busy,
        "alone": idle,
        "errors of others": len(beside.errors),
        "RSS grew by MiB": round(grown, 1),
    }
    good = foreign <= 0 and not beside.errors and busy <= max(5 * idle, 25) and grown < 10
    return Outcome(figures, good, sent, "a p99 below 25 ms counts as 5 times idle" if busy > 5 * idle else "")


ROW = Row(
    number="5",
    title="HTTP/2 rapid reset",
    method=(
        "A client opens and resets 20,000 streams, as many per connection as the server accepts. Another client "
        "sends valid requests."
    ),
    goal=(
        "No handler runs for them. p99 of the other client is at most 5 times its idle value, or 25 ms. Memory "
        "grows by less than 10 MiB."
    ),
    result=(
        "{handlers run for them} handlers, p99 {p99 of others in ms} ms ({alone} ms idle), {RSS grew by MiB} MiB more."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_attacks.py",),
    run=run,
)
