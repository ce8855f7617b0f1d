"""The production matrix: calls as deployments send them, measured with three clients, and the clients compared.

Each line is a set of headers, or an option of the server. In each round, every client measures every line of every
system, one after the other. Ratios are of the same round, relative to the same client's line without extra headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scale
from rich.progress import Progress

from kanserve import AsyncClient, Client
from kanserve.client.errors import TransientError
from servers import contestants, load, rounds
from servers.contestants import Contestant, Running
from servers.measured import Measured, Sample, spread

KEY, MODEL, WIDTHS, AT_ONCE = "production", "model", (4, 8, 1), 32
SYSTEMS = OURS, BARE, TRITON = "kanserve", "no-op grpcio", contestants.TRITONS[0]
TOKENS = tuple(f"kanserve-{word * 5}" for word in ("a1b2c3d4", "e5f6a7b8"))
DEADLINE, REQUEST_ID = "grpc-timeout: 1S", "x-request-id: abc-0123456789"
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
TOKEN, OTHER = (f"authorization: Bearer {token}" for token in TOKENS)
H2LOAD, ANALYZER, CLIENT = "h2load -c 8 -m 16", "perf_analyzer, c = 32", "Client, 32 threads"
# Line -> server of kanserve, and the headers of each client that runs at the same time.
LINES: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "TLS, token and deadline": ("tls", ((TOKEN, DEADLINE),)),
    "no header": ("plain", ((),)),
    "deadline": ("plain", ((DEADLINE,),)),
    "token": ("tokens", ((TOKEN,),)),
    "token and deadline": ("tokens", ((TOKEN, DEADLINE),)),
    "two clients, two tokens": ("tokens", ((TOKEN,), (OTHER,))),
    "request id": ("plain", ((REQUEST_ID,),)),
    "trace header": ("plain", ((TRACE,),)),
    "access log of all calls": ("log", ((),)),
    "traces of 1%": ("traces", ((),)),
}
PRODUCTION, BASE = next(iter(LINES)), {H2LOAD: "no header", ANALYZER: "no header", CLIENT: "deadline"}
ALWAYS_DEADLINE = ("no header", "token", "request id", "trace header")  # Client sends a deadline, and no such headers
Flow = tuple[Contestant, Running]


@dataclass(frozen=True)
class Stage:
    """Folder, input files and time of a run."""

    folder: Path
    seconds: float

    def sample(self, tool: str, flow: Flow, clients: Sequence[tuple[str, ...]]) -> Sample:
        """One measurement by all clients at the same time. Raises RuntimeError if one fails."""
        with ThreadPoolExecutor(len(clients)) as pool:
            parts = list(pool.map(lambda at: self._part(tool, flow, clients, at), range(len(clients))))
        # The CPU time of the server is that of all clients in each part.
        return Sample(sum(part.rate for part in parts), 0.0, 0.0, 1 / sum(1 / max(part.cpu, 1e-3) for part in parts))

    def _part(self, tool: str, flow: Flow, clients: Sequence[tuple[str, ...]], at: int) -> Sample:
        (system, running), headers, share, secure = flow, clients[at], len(clients), bool(flow[0].flags)
        if tool == H2LOAD:
            data, size = load.body(self.folder, MODEL, "x", WIDTHS[0]), (8 // share, 16)
            return load.h2load(running, data, *size, seconds=self.seconds, headers=headers, secure=secure)
        if tool == ANALYZER:
            place = self.folder / str(at)
            place.mkdir(exist_ok=True)
            flags = [word for header in headers for word in ("-H", header.replace(": ", ":", 1))]
            system = dataclasses.replace(system, flags=(*system.flags, *flags))
            data = load.inputs(place, "x", 1, WIDTHS[0])
            return load.perf_analyzer(
                system, running, MODEL, data, concurrency=AT_ONCE // share, rows=1, window=self.seconds
            )
        with connected(running, self.folder if secure else None, headers) as client:
            return at_once(caller(client), AT_ONCE // share, self.seconds, running)


def connected(running: Running, folder: Path | None, headers: Sequence[str] = ()) -> Client:
    """A client with the token of the headers, if there is one. `folder`: that of cert.pem; None: no TLS."""
    url = f"{'grpcs' if folder else 'grpc'}://127.0.0.1:{running.port}"
    token = TOKENS[1] if OTHER in headers else TOKENS[0] if TOKEN in headers else ""
    return Client(url, token=token, ca=folder / "cert.pem" if folder else None)


def caller(client: Client) -> Callable[[], Any]:
    """One inference."""
    model, rows = client.model(MODEL), np.full((1, WIDTHS[0]), 0.25, np.float32)
    return lambda: client.infer(model, rows).outputs[model.outputs[0].name]


def at_once(call: Callable[[], Any], threads: int, seconds: float, running: Running) -> Sample:
    """Calls of several threads, each one after the other."""
    begun, before = time.perf_counter(), running.cpu_seconds()

    def loop(_: int) -> int:
        count = 0
        while time.perf_counter() < begun + seconds:
            call()
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return _counted(sum(pool.map(loop, range(threads))), begun, before, running)


async def awaited(call: Callable[[], Awaitable[Any]], tasks: int, seconds: float, running: Running) -> Sample:
    """Calls of several tasks, each one after the other."""
    begun, before, count = time.perf_counter(), running.cpu_seconds(), 0

    async def loop() -> None:
        nonlocal count
        while time.perf_counter() < begun + seconds:
            await call()
            count += 1

    await asyncio.gather(*(loop() for _ in range(tasks)))
    return _counted(count, begun, before, running)


def _counted(count: int, begun: float, before: float, running: Running) -> Sample:
    spent = (running.cpu_seconds() - before) * 1e6
    return Sample(count / (time.perf_counter() - begun), 0.0, 0.0, spent / max(1, count))


def name(tool: str, system: str, line: str) -> str:
    """Name of a cell in `Measured`, with 0 as its number of requests in flight."""
    return f"{tool}; {system}; {line}"


def reason(tool: str, system: str, line: str) -> str:
    """Text of a cell without figures; empty if it can be measured."""
    form, clients = LINES[line]
    programs = {H2LOAD: shutil.which("h2load"), ANALYZER: load.analyzer(), CLIENT: ""}
    if programs[tool] is None or (system == TRITON and "TRITONSERVER" not in os.environ):
        return "not run"
    no_deadline = tool == ANALYZER and DEADLINE in clients[0]
    no_server = system != OURS and form not in ("plain", "tokens")
    return "not available" if no_deadline or no_server or (tool == CLIENT and line in ALWAYS_DEADLINE) else ""


def measure(count: int, seconds: float, folder: Path, words: Sequence[str] = ("",)) -> Measured:
    """Cells whose names contain one of `words`, and the comparison of the clients. `folder`: empty. Raises RuntimeError
    if a server or a client fails."""
    scale.export(scale.write(scale.Shape(WIDTHS, 5), folder), folder / "models")
    rounds.certificate(folder)
    hashes = [hashlib.sha256(token.encode()).hexdigest() for token in TOKENS]
    entries = [f'[[token]]\nname = "{at}"\nsha256 = "{text}"\nroles = ["infer"]\n' for at, text in enumerate(hashes)]
    (folder / "tokens.toml").write_text("\n".join(entries))
    (folder / "tokens.toml").chmod(0o600)
    systems = contestants.production(folder / "models", MODEL, folder)
    cells = [(tool, system, line) for tool in BASE for system in SYSTEMS for line in LINES]
    cells = [cell for cell in cells if not reason(*cell) and any(word in name(*cell) for word in words)]
    places = {cell: cell[1] if cell[1] != OURS else f"{OURS} {LINES[cell[2]][0]}" for cell in cells}
    if compared := any(word in "tritonclient" for word in words):
        places[CLIENT, OURS, "compared"] = f"{OURS} plain"
    measured, stage = Measured(), Stage(folder, seconds)
    with contextlib.ExitStack() as stack, Progress() as progress:
        flows = rounds.started([system for system in systems if system.name in places.values()], folder, stack)
        running = {system.name: (system, where) for system, where in flows}
        for flow in flows:
            _ready(stage, flow)
        for number in progress.track(range(count), description="production"):
            for cell in cells if number % 2 == 0 else reversed(cells):
                measured.add(name(*cell), 0, stage.sample(cell[0], running[places[cell]], LINES[cell[2]][1]))
            if compared:
                asyncio.run(_compare(running[f"{OURS} plain"][1], seconds, measured))
    return measured


def _ready(stage: Stage, flow: Flow) -> Any:
    """Wait until the model responds. Raises TransientError."""
    with connected(flow[1], stage.folder if flow[0].flags else None, (TOKEN,)) as client:
        for left in reversed(range(10 * contestants.START_SECONDS)):
            try:
                return caller(client)()
            except TransientError:
                if not left:
                    raise
            time.sleep(0.1)


async def _compare(running: Running, seconds: float, measured: Measured) -> None:
    """The clients of kanserve and tritonclient on the same server, with the same rows."""
    from tritonclient import grpc
    from tritonclient.grpc import aio

    url, rows = f"127.0.0.1:{running.port}", np.full((1, WIDTHS[0]), 0.25, np.float32)

    def inputs() -> list[Any]:
        given = grpc.InferInput("x", rows.shape, "FP32")
        given.set_data_from_numpy(rows)
        return [given]

    with Client(url) as client, grpc.InferenceServerClient(url) as theirs:
        model, output = client.model(MODEL), client.model(MODEL).outputs[0].name
        calls = {"Client": caller(client), "tritonclient": lambda: theirs.infer(MODEL, inputs()).as_numpy(output)}
        for threads in (1, AT_ONCE):
            for system, call in calls.items():
                measured.add(f"{system}, threads", threads, at_once(call, threads, seconds, running))

    async def ask_theirs() -> Any:
        return (await those.infer(MODEL, inputs())).as_numpy(output)

    async with AsyncClient(url) as ours, aio.InferenceServerClient(url) as those:
        for tasks in (1, AT_ONCE):
            measured.add(
                "AsyncClient, tasks", tasks, await awaited(lambda: ours.infer(model, rows), tasks, seconds, running)
            )
            measured.add("tritonclient, tasks", tasks, await awaited(ask_theirs, tasks, seconds, running))


def markdown(measured: Measured) -> str:
    """Tables of all systems, then that of the clients."""
    parts = []
    for system in SYSTEMS:
        if not any(f"; {system}; " in at for at, _ in measured.samples):
            parts.append(f"{system}: not run.")
            continue
        head = (
            f"| {system}: requests per second; ratio to no extra header; server CPU per request | {' | '.join(BASE)} |"
        )
        lines = [f"| {line} | {' | '.join(_cell(measured, tool, system, line) for tool in BASE)} |" for line in LINES]
        parts.append("\n".join([head, "|---|" + "---|" * len(BASE), *lines]))
    lines = ["| client / tritonclient, requests per second | one at a time | 32 at once |", "|---|---|---|"]
    for ours, kind in (("Client", "threads"), ("AsyncClient", "tasks")):
        pairs = [list(measured.pairs(f"{ours}, {kind}", f"tritonclient, {kind}", level)) for level in (1, AT_ONCE)]
        cells = [spread([a.rate / b.rate for a, b in pair], "{:.2f}x") if pair else "not run" for pair in pairs]
        lines.append(f"| {ours} | {' | '.join(cells)} |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _cell(measured: Measured, tool: str, system: str, line: str) -> str:
    at = name(tool, system, line)
    samples = measured.samples.get((at, 0))
    if not samples:
        return reason(tool, system, line) or "not run"
    ratios = [mine.rate / base.rate for mine, base in measured.pairs(at, name(tool, system, BASE[tool]), 0)]
    texts = spread([sample.rate for sample in samples]), spread(ratios, "{:.2f}x")
    return f"{'; '.join(texts)}; {spread([sample.cpu for sample in samples])} us"
