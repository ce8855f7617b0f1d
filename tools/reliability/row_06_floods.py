"""Endless frames, connections with incomplete data, and streams without data."""

from __future__ import annotations

from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import attack, company, mib, milliseconds, settled, toys

ATTACKS = ("continuations", "hpack_bombs", "half_prefaces", "bodiless", "dribbles", "pings", "settings", "empty_frames")


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """One attack after the other, each with a client that sends valid requests."""
    seconds, errors = [], []
    with toys(transport, request_read_timeout=5.0, handshake_timeout=5.0) as server:
        settled(server)
        before = mib(server)
        for at, name in enumerate(ATTACKS):
            with company(server) as (beside,):
                attack(server, name, float(scale.of(1, 10)))
            seconds += beside.seconds
            errors += beside.errors
            scale.tell(at + 1, len(ATTACKS))
        settled(server)
        peak, after = mib(server, "VmHWM") - before, mib(server) - before
        alive = server.process.poll() is None
    figures = {
        "attacks": len(ATTACKS),
        "calls of others": len(seconds),
        "that failed": len(errors),
        "p99 in ms": milliseconds(seconds),
        "RSS grew by MiB": round(after, 1),
        "at its peak": round(peak, 1),
    }
    good = alive and not errors and milliseconds(seconds) < 250 and after < 64
    return Outcome(
        figures, good, len(seconds), "; ".join(sorted({e.partition("details = ")[2][:80] for e in errors})[:2])
    )


ROW = Row(
    number="6",
    title="HTTP/2 denial of service and idle connections",
    method=(
        "Eight attacks of 10 s each: CONTINUATION, HPACK, PING, SETTINGS and empty frames without end, 200 half "
        "prefaces, 1000 streams without a body, bodies byte by byte. Another client sends valid requests."
    ),
    goal="100% of valid requests succeed with a p99 below 250 ms. Memory grows by less than 64 MiB.",
    result=(
        "{that failed} of {calls of others} valid requests failed, p99 {p99 in ms} ms, {RSS grew by MiB} MiB "
        "more ({at its peak} MiB at the peak)."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_attacks.py",),
    run=run,
)
