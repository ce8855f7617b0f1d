"""Hot reload under load: no request is lost, and each response is bit-identical to the output of one version."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from tests.support import reload_tools
from tests.support.server_process import serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

CLIENTS = 8
POLL = 0.05


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Every second change is another content under the same number, the others are a new version in its place."""
    changes, requests = scale.of(4, 200), scale.of(400, 10**6)
    answers = {factor: reload_tools.responses(factor) for factor in (1.0, 2.0, 4.0)}
    factors, version = itertools.cycle((2.0, 4.0, 1.0)), 1
    allowed = {1: {answers[1.0]}}
    with tempfile.TemporaryDirectory() as folder:
        created, repository = Path(folder, "made"), Path(folder, "models")
        reload_tools.write(repository / "toy" / "1")
        settings = {
            "repository_poll_seconds": POLL,
            "version_policy": "latest:1",
            "transport": transport,
            "access_log": "none",
        }
        with serving(repository, **settings) as server, reload_tools.Clients(server, CLIENTS, allowed) as asking:
            for at in range(changes):
                asking.until(requests // changes)
                version, factor = version + at % 2, next(factors)
                allowed.setdefault(version, set()).add(answers[factor])
                reload_tools.swap(
                    reload_tools.write(created / str(at), factor, version=version), repository / "toy" / str(version)
                )
                reported = f'kanserve_model_loads_total{{model="toy",version="{version}"}}'
                until(
                    lambda reported=reported, at=at: (
                        reload_tools.shown(server, reported) >= 1 + (at > 0 and at % 2 == 0)
                    )
                )
                scale.tell(at + 1, changes)
            asking.until(requests - asking.served)
            # The request names the last version, because a request without a version gets the newest one.
            until(lambda: reload_tools.factor(server, version=str(version)) == factor)
        figures = {
            "changes": changes,
            "answered": asking.served,
            "lost": len(asking.failed),
            "wrong": asking.wrong,
            "contents seen": len(asking.seen),
            "slowest in ms": round(1e3 * asking.slowest, 1),
        }
        good = not asking.failed and not asking.wrong and asking.served >= requests and len(asking.seen) > changes // 2
        return Outcome(figures, good, asking.served, "; ".join(sorted(set(asking.failed))[:3]))


ROW = Row(
    number="13",
    title="Reload under load",
    method=(
        "8 clients send requests during 200 changes: new contents under the same version number, and new "
        "versions that become the default."
    ),
    goal=(
        "0 of 1,000,000 requests lost. Each output is exactly that of one version, and the response names this version."
    ),
    result="{answered} responses: {lost} lost, {wrong} wrong, slowest {slowest in ms} ms.",
    wire=True,
    run=run,
    minutes=40,
)
test_row = suite(ROW)
