"""Soak test: all kinds of requests at once, with a fault every minute, for a chosen duration."""

from __future__ import annotations

import contextlib
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.server_process import INFERENCE, KAN, Server, request, serving
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import attack, mib, settled

SECONDS, HOURS = 20.0, 8.0  # of the short form, and of the full one where --minutes says nothing
FAULT = 60.0  # seconds between two
EXCUSED = 3.0  # seconds after a fault in which the server may turn calls away
SLOPE = 0.1  # MiB an hour
EARLY = 0.25  # of the time, in which caches and pools fill
LEAST = 1.0  # hours that a slope needs to mean something
PERIOD = 1 / 12  # hours of one figure in the series of memory


@dataclass
class Watch:
    """Samples of hours, MiB, descriptors and threads every few seconds, with the calls and errors of the clients."""

    samples: list[tuple[float, float, int, int]] = field(default_factory=list)
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    fault_at: float = -1e9

    def look(self, server: Server, begun: float) -> None:
        """One more."""
        process = Path(f"/proc/{server.process.pid}")
        counts = (len(list((process / name).iterdir())) for name in ("fd", "task"))
        self.samples.append(((time.monotonic() - begun) / 3600, mib(server), *counts))


def caller(server: Server, watch: Watch, stop: threading.Event, seed: int) -> None:
    """Inference of all sizes, edge queries, descriptions, health; some calls are given up."""
    rng = random.Random(seed)
    query = kan_pb2.QueryEdgesRequest(model_name="toy", rows=bytes(64 * 12), row_count=64).SerializeToString()
    others = (
        (f"{KAN}QueryEdges", query),
        (f"{KAN}DescribeModel", kan_pb2.DescribeModelRequest(model_name="toy").SerializeToString()),
        ("/grpc.health.v1.Health/Check", b""),
        (f"{INFERENCE}ServerReady", b""),
    )
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        while not stop.is_set():
            rows = np.zeros((rng.randrange(1, toy_model.BATCH + 1), 3), np.float32)
            path, data = (
                (f"{INFERENCE}ModelInfer", request(rows).SerializeToString())
                if rng.random() < 0.9
                else (rng.choice(others))
            )
            call = channel.unary_unary(path).future(data, timeout=30)
            if rng.random() < 0.01:
                call.cancel()
                continue
            try:
                call.result()
            except grpc.RpcError as error:
                if time.monotonic() > watch.fault_at + EXCUSED:
                    watch.errors.append(f"{error.code().name} {error.details()}"[:120])
            watch.calls += 1


def faults(server: Server, folder: Path) -> list[Callable[[], None]]:
    """One after the other, again and again."""
    return [
        lambda: attack(server, "rapid_resets"),
        lambda: attack(server, "bodiless"),
        lambda: toy_model.write(folder, version=2),
        lambda: attack(server, "half_prefaces"),
        lambda: (folder / "toy" / "2" / "manifest.json").write_text("{"),
        lambda: server.process.send_signal(signal.SIGHUP),
        lambda: remove(folder / "toy" / "2"),
        lambda: attack(server, "dribbles"),
    ]


def remove(version: Path) -> None:
    """As an operator would."""
    for path in version.iterdir():
        path.unlink()
    version.rmdir()


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """--minutes says how long; the short form has its faults close together."""
    whole = 60 * scale.minutes or (HOURS * 3600 if scale.full else SECONDS)
    every = FAULT if scale.full else SECONDS / 8
    watch, stop, count = Watch(), threading.Event(), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        toy_model.write(folder)
        with serving(
            folder, transport=transport, access_log="none", repository_poll_seconds=2.0, request_read_timeout=5.0
        ) as server:
            settled(server)
            callers = [
                threading.Thread(target=caller, args=(server, watch, stop, seed + at), daemon=True) for at in range(4)
            ]
            for thread in callers:
                thread.start()
            begun, todo = time.monotonic(), faults(server, folder)
            while (now := time.monotonic() - begun) < whole:
                if now > (count + 1) * every and now < whole - EXCUSED:
                    watch.fault_at = time.monotonic() + 2
                    todo[count % len(todo)]()
                    watch.fault_at = time.monotonic()
                    count += 1
                watch.look(server, begun)
                scale.tell(int(now), int(whole))
                stop.wait(min(5.0, whole / 40))
            stop.set()
            for thread in callers:
                thread.join(30)
            with contextlib.suppress(AssertionError):
                settled(server)
            watch.look(server, begun)
            alive = server.process.poll() is None
    return judged(watch, whole / 3600, count, alive=alive)


def line_slope(watch: Watch, begin: float) -> float:
    """Slope in MiB per hour of the least-squares line through the samples from hour `begin` on."""
    kept = [item for item in watch.samples if item[0] >= begin]
    return float(np.polyfit([item[0] for item in kept], [item[1] for item in kept], 1)[0])


def series(watch: Watch) -> str:
    """The mean MiB of each period, as text."""
    periods: dict[int, list[float]] = {}
    for hour, size, _, _ in watch.samples:
        periods.setdefault(int(hour / PERIOD), []).append(size)
    return " ".join(f"{np.mean(sizes):.1f}" for sizes in periods.values())


def judged(watch: Watch, hours: float, faults: int, *, alive: bool) -> Outcome:
    """The slope is that of the line through all but the first quarter. The slope of the second half and the series
    show whether memory levels off; they are not judged."""
    kept = [item for item in watch.samples if item[0] >= EARLY * hours]
    slope = line_slope(watch, EARLY * hours)
    (_, _, files, threads), last = kept[0], watch.samples[-1]
    figures: dict[str, float | int | str] = {
        "minutes": round(60 * hours, 1),
        "faults": faults,
        "calls": watch.calls,
        "errors that no fault explains": len(watch.errors),
        "MiB at the end": round(last[1], 1),
        "MiB an hour": round(slope, 2),
        "MiB an hour in the second half": round(line_slope(watch, hours / 2), 2),
        "MiB in each 5 minutes": series(watch),
        "descriptors": last[2] - files,
        "threads": last[3] - threads,
    }
    long = hours >= LEAST
    steady = slope < SLOPE and last[2] - files <= 2 and last[3] - threads <= 0
    good = alive and not watch.errors and (steady or not long)
    notes = [] if long else [f"errors alone are judged: what grows, from {LEAST:.0f} h on"]
    return Outcome(figures, good, watch.calls, "; ".join([*notes, *sorted(set(watch.errors))[:3]]))


ROW = Row(
    number="20",
    title="Soak test",
    method=(
        "4 clients call all methods. Each minute has a fault: stream resets, silence, half prefaces, a new, a "
        "broken or a removed version, SIGHUP, or bodies byte by byte."
    ),
    goal="8 hours: less than 0.1 MiB per hour, descriptors within 2, the same number of threads, no unexplained error.",
    result=(
        "{minutes} minutes: {MiB an hour} MiB per hour, descriptors {descriptors}, threads {threads}, {errors "
        "that no fault explains} unexplained errors in {calls} calls."
    ),
    wire=True,
    run=run,
    minutes=9 * 60,
)
