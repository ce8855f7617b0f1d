"""Effect of explanation, edge and statistics calls on the rate and latency of inference requests.

    python benchmarks/beside.py [--seconds 5] [--rounds 3]

The script exports a network of random weights, [64, 64, 10], with reference rows, and serves it with `kanserve serve`
in its own process. Eight clients in a second process each wait for a response before they send the next row. Each round
measures them without other load, and next to three clients in a third process, which runs at lower priority. The first
requests edges of 64 rows, the second explanations of 8 rows, the third statistics of 64 rows. Each sends ten requests
per second, and then as many as the server can handle. All processes share the cores of this machine. The script prints
Markdown on stdout: rates and 99th percentiles of the durations, as medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside
import numpy as np
import overload
from overload import SPAWN, Seen
from rich.progress import track

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "service")]

from kanserve.client.sync import Client  # noqa: E402 - as above

MODEL, WIDTH = "n0", 64
NICE = 10  # of those who look inside
# Turn -> how often a second each of them asks; 0: as fast as it is answered.
TURNS = {"alone": None, "three look inside, ten times a second each": 10.0, "as fast as they are answered": 0.0}


def infer(address: str, seconds: float) -> Seen:
    """The clients, in a separate process."""
    return asyncio.run(overload.closed(address, overload.message(MODEL, 1, WIDTH), seconds))


def look(address: str, seconds: float, rate: float) -> int:
    """Number of responses per kind of query, at `rate` queries per second; 0: as fast as the server responds."""
    os.nice(NICE)
    with Client(address, timeout=60) as client:
        described, rows = client.describe(MODEL), inside.rows(WIDTH, 5)
        questions: list[Callable[[], Any]] = [
            lambda: client.edges(described, rows[:64], top_k=10),
            lambda: client.explain(described, rows[:8], outputs=[0]),
            lambda: client.drift(described, rows[:64]),
        ]
        answered = [0] * len(questions)
        end = time.perf_counter() + seconds

        def ask(at: int) -> None:
            while (begun := time.perf_counter()) < end:
                questions[at]()
                answered[at] += 1
                if rate:
                    time.sleep(max(0.0, begun + 1 / rate - time.perf_counter()))

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(questions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(answered)


def measure(address: str, seconds: float, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """By turn: (requests a second, seconds of the 99th of 100, questions a second) of each round."""
    by_turn: dict[str, list[tuple[float, float, float]]] = {turn: [] for turn in TURNS}
    with SPAWN.Pool(2) as pool:
        pool.apply(infer, (address, 1.0))  # nobody's first requests count
        pool.apply(look, (address, 0.5, 0.0))
        for at in track(range(len(TURNS) * rounds), "rounds"):
            turn, rate = list(TURNS.items())[at % len(TURNS)]
            pending = None if rate is None else pool.apply_async(look, (address, seconds, rate))
            seen = pool.apply(infer, (address, seconds))
            assert not seen.codes, f"requests failed: {seen.codes}"
            questions = pending.get() / seconds if pending is not None else 0.0
            by_turn[turn].append((seen.rate, float(np.percentile(seen.answers, 99)), questions))
    return by_turn


def main() -> None:
    """Export, serve, measure interleaved, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, overload.serving(inside.export(Path(place)), "asgi") as served:
        by_turn = measure(served.address, args.seconds, args.rounds)
    print("| | requests/s | p99 | questions/s |\n|---|---|---|---|")
    for turn, rounds in by_turn.items():
        rate, last, questions = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {turn} | {rate:.0f} | {last * 1e3:.2f} ms | {questions:.0f} |")
    alone, *beside = (statistics.median(last for _, last, _ in rounds) for rounds in by_turn.values())
    times = " and ".join(f"{quantile / alone:.2f}" for quantile in beside)
    print(f"\np99 is {times} times what it was alone; medians of {args.rounds} rounds of {args.seconds:g} s,")
    print(f"{overload.CLIENTS} clients, load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
