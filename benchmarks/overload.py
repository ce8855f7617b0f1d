"""Behavior of a server at several times its capacity, and the latency of a second model on the same server.

    python benchmarks/overload.py [--transport asgi] [--times 5] [--seconds 8]

The script exports two models of random weights and serves them with `kanserve serve` in its own process. A grpc.aio
client sends requests of 8 rows to `heavy`, [1024, 1024, 1024]. Another process sends one row to `light`, [4, 8, 1],
every 10 ms. The script measures three loads: `light` without other load; next to 8 clients of `heavy` that wait for
each response, which gives the peak; and next to an open-loop client of `heavy` at a multiple of the peak. Server and
clients share the cores of this machine, so the peak is that of both together. The script takes half a minute and prints
Markdown on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import scale
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
REFUSED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
SPAWN = multiprocessing.get_context("spawn")
NICE = 10  # of the flood
PATIENCE = 2.0  # seconds until a call gives up
CLIENTS = 8
HEAVY, LIGHT = (1024, 1024, 1024), (4, 8, 1)
ROWS = 8
PAUSE = 0.01  # seconds between two requests for the light model
SETTLE = 2.0  # seconds after the overload until memory is looked at


@dataclass
class Seen:
    """Observations of one client: seconds of each response and of each rejection, and the count per status code."""

    answers: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds

    def p99(self, what: list[float]) -> str:
        return f"{np.percentile(what, 99) * 1e3:.1f} ms" if what else "-"


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    address: str

    def rss(self) -> float:
        """MiB."""
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert match is not None
        return int(match[1]) / 1024


def message(model: str, rows: int, width: int) -> bytes:
    """A ModelInferRequest."""
    from kanserve.pb import grpc_service_pb2 as pb

    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, width])
    values = np.random.default_rng(0).uniform(-1, 1, (rows, width)).astype("<f4")
    request.raw_input_contents.append(values.tobytes())
    return request.SerializeToString()


async def ask(call: Any, data: bytes, seen: Seen) -> None:
    """One request, and what came of it."""
    begun = time.perf_counter()
    try:
        await call(data, timeout=PATIENCE)
        seen.answers.append(time.perf_counter() - begun)
    except grpc.aio.AioRpcError as error:
        name = error.code().name
        if name in REFUSED:
            seen.refusals.append(time.perf_counter() - begun)
        seen.codes[name] = seen.codes.get(name, 0) + 1


async def closed(address: str, data: bytes, seconds: float) -> Seen:
    """`CLIENTS` that each wait for a response before the next request."""
    seen, begun = Seen(), time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)

        async def client() -> None:
            while time.perf_counter() < begun + seconds:
                await ask(call, data, seen)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seen.seconds = time.perf_counter() - begun
    return seen


async def opened(address: str, data: bytes, seconds: float, rate: float) -> Seen:
    """`rate` requests per second, independent of their responses."""
    seen, begun, sent = Seen(), time.perf_counter(), 0
    async with grpc.aio.insecure_channel(address) as channel:
        call, tasks = channel.unary_unary(METHOD), set()
        while (now := time.perf_counter()) < begun + seconds:
            for _ in range(int((now - begun) * rate) - sent):
                sent += 1
                task = asyncio.ensure_future(ask(call, data, seen))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.001)
        seen.seconds = time.perf_counter() - begun
        done = len(seen.answers)
        await asyncio.gather(*tasks)
    del seen.answers[done:]
    return seen


def flood(address: str, data: bytes, seconds: float, rate: float) -> Seen:
    """`opened` in a separate process with a lower priority than the server and the timed clients: its clients stand for
    other machines."""
    out = SPAWN.Queue()
    process = SPAWN.Process(target=_flood, args=(address, data, seconds, rate, out))
    process.start()
    seen: Seen = out.get(timeout=seconds + 60)
    process.join()
    return seen


def _flood(address: str, data: bytes, seconds: float, rate: float, out: Any) -> None:
    os.nice(NICE)
    out.put(asyncio.run(opened(address, data, seconds, rate)))


def probe(address: str, data: bytes, seconds: float, out: Any) -> None:
    """One call after the other with a pause between, in this process."""
    seen, end = Seen(), time.perf_counter() + seconds
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            try:
                call(data, timeout=PATIENCE)
                seen.answers.append(time.perf_counter() - begun)
            except grpc.RpcError as error:
                if error.code().name in REFUSED:
                    seen.refusals.append(time.perf_counter() - begun)
            time.sleep(PAUSE)
    out.put((seen.answers, seen.refusals))


def beside(address: str, seconds: float, work: Any, data: bytes | None = None) -> tuple[Any, Seen]:
    """Do `work` and send requests meanwhile, to the light model or with `data`; both results."""
    out = SPAWN.Queue()
    process = SPAWN.Process(target=probe, args=(address, data or message("light", 1, LIGHT[0]), seconds, out))
    process.start()
    result = work()
    seen = Seen(*out.get(timeout=seconds + 60))
    process.join()
    return result, seen


@contextlib.contextmanager
def serving(repository: Path, transport: str, flags: Sequence[str] = ()) -> Iterator[Served]:
    """A server over the models of a repository, with more `flags`."""
    command = [sys.executable, "-m", "kanserve", "serve", str(repository), "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(
        [*command, "--log-format", "json", "--access-log", "none", "--transport", transport, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])},
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                event = json.loads(line)
                if event["event"] == "server_ready":
                    yield Served(process, event["grpc"])
                    break
        finally:
            process.kill()


def export(folder: Path) -> Path:
    """The repository with both models."""
    for name, widths in (("heavy", HEAVY), ("light", LIGHT)):
        (folder / name).mkdir()
        checkpoint = scale.write(scale.Shape(widths, 5), folder / name)
        command = ["export", str(checkpoint), "--repository", str(folder / "models"), "--name", name]
        subprocess.run([sys.executable, "-m", "kanserve", *command], check=True, capture_output=True)
    return folder / "models"


def measure(served: Served, times: float, seconds: float) -> list[tuple[str, str]]:
    """The rows of the table."""
    data = message("heavy", ROWS, HEAVY[0])
    asyncio.run(closed(served.address, data, 1.0))
    steps = iter(track(range(3), "the light model alone, the peak, the overload", total=3))
    next(steps)
    _, alone = beside(served.address, seconds, lambda: time.sleep(seconds))
    next(steps)
    peak, busy = beside(served.address, seconds, lambda: asyncio.run(closed(served.address, data, seconds)))
    before = served.rss()
    next(steps)
    rate = times * peak.rate
    over, flooded = beside(served.address, seconds, lambda: flood(served.address, data, seconds, rate))
    during = served.rss()
    time.sleep(SETTLE)
    next(steps, None)
    return [
        ("peak, answers a second", f"{peak.rate:.0f}"),
        (f"goodput at {times:g} times", f"{over.rate:.0f} ({over.rate / peak.rate:.2f} of the peak)"),
        ("calls that had no answer", ", ".join(f"{count} {code}" for code, count in over.codes.items()) or "none"),
        ("p99 of a refusal", over.p99(over.refusals)),
        ("p99 of an answer: at the peak, at the overload", f"{peak.p99(peak.answers)}, {over.p99(over.answers)}"),
        (
            "p99 of the light model: alone, at the peak, at the overload",
            ", ".join(seen.p99(seen.answers) for seen in (alone, busy, flooded)),
        ),
        ("RSS in MiB: before, right after, 2 s later", f"{before:.0f}, {during:.0f}, {served.rss():.0f}"),
        ("load of the machine", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"),
    ]


def main() -> None:
    """Export, serve, measure, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transport", default="asgi")
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(export(Path(folder)), args.transport) as served:
        rows = measure(served, args.times, args.seconds)
    print("| what | seen |\n|---|---|")
    for what, seen in rows:
        print(f"| {what} | {seen} |")


if __name__ == "__main__":
    main()
