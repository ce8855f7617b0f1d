"""Repeated reloads: the cost of a reload, and of a request after it, does not grow over ten thousand reloads."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.support import reload_tools
from tests.support.server_process import Server, serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

PAD = 2**18  # bytes of each version, so that one that stays is seen
WINDOWS, ASKED = 20, 100  # times that is measured, each time with so many requests
GROWTH, MEMORY = 0.1, 5.0  # of the latency, as a share; MiB


def latency(server: Server) -> float:
    """Seconds, the median."""
    spent = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        server.infer(reload_tools.ROWS)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Another content under the same number, again and again."""
    reloads = scale.of(12, 10_000)
    windows = min(WINDOWS, reloads // 3)
    seconds: list[float] = []
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        created = [reload_tools.write(Path(folder, f"made-{at}"), 2.0**at, pad=PAD) for at in (0, 1)]
        directory = Path(folder, "models", "toy", "1")
        reload_tools.swap(created[0], directory)
        with serving(
            directory.parents[1], repository_poll_seconds=0.005, access_log="none", log_level="warning"
        ) as server:
            begun = time.monotonic()
            for at in range(1, reloads + 1):
                reload_tools.swap(created[at % 2], directory)
                until(lambda at=at: reload_tools.factor(server) == 2.0 ** (at % 2))
                if at % (reloads // windows) == 0:
                    seconds.append(latency(server))
                    sizes.append(reload_tools.memory(server))
                scale.tell(at, reloads)
            spent = time.monotonic() - begun
            loads = reload_tools.shown(server, 'kanserve_model_loads_total{model="toy",version="1"}')
    # The first windows fill caches: of the runtime, of the allocator.
    grown, more = (
        reload_tools.slope(seconds[len(seconds) // 4 :]) / seconds[0],
        reload_tools.slope(sizes[len(sizes) // 4 :]),
    )
    figures = {
        "reloads": reloads,
        "seconds a reload": round(spent / reloads, 4),
        "median latency in ms, first": round(1e3 * seconds[0], 3),
        "last": round(1e3 * seconds[-1], 3),
        "latency slope in %": round(100 * grown, 1),
        "RSS slope in MiB": round(more, 2),
    }
    enough = loads == reloads + 1 and (not scale.full or grown < GROWTH)
    return Outcome(figures, enough and more < MEMORY, reloads)


ROW = Row(
    number="35",
    title="Many reloads",
    method="A version is reloaded 10,000 times.",
    goal="From the first quarter to the end, latency grows by less than 10% and memory by less than 5 MiB.",
    result="Latency {latency slope in %}%, memory {RSS slope in MiB} MiB, {seconds a reload} s per reload.",
    run=run,
    minutes=60,
)
test_row = suite(ROW)
