"""Fleet: two servers behind HAProxy pass every event of operations, and clients with retries lose no call.

The full form, with `--minutes 30`, prints a table of the events; its record has the same as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from kanserve.client.errors import ClientError, NotAllowed
from tests.kanserve.server.test_supervisor import children
from tests.support import hostile_bundles
from tests.support.credentials import bearer
from tests.support.server_process import INFERENCE, request
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite
from tools.reliability.fleet import BATCH, PENDING, Fleet, Load, Node, running
from tools.reliability.helpers import milliseconds

KINDS = ("grpc", "grpc", "rest", "stream", "score")
SHORT = ("bad version", "promote and rollback", "SIGKILL of a server", "empty bucket", "expired certificate")
KEPT = 4  # versions in the bucket
BURST = 5 * 2 * PENDING  # calls at the same time, of what both servers accept
FAILURES = (AssertionError, OSError, ValueError, ClientError, subprocess.SubprocessError)
FAULTS = ("unhandled_exception", "stderr_output", "python_warning", "repository_sync_crashed")  # events of the log
HANDSHAKES = 12  # of which each worker gets some
SETTLED = 5  # calls of each client that go well after an event
PROBE = ("GET {} HTTP/1.0\r\n\r\n", "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


@dataclass
class Line:
    """Calls of all clients during the events of one kind. `unreached`: times that the state was not as it must be."""

    event: str
    times: int = 0
    calls: int = 0
    retried: int = 0
    lost: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_gap_s: float = 0.0
    unreached: int = 0


def bad_version(fleet: Fleet, draw: random.Random) -> None:
    """A version with a flipped byte is reported and not served; the others serve, and readiness stays."""

    def flip(folder: Path) -> None:
        data = bytearray((folder / "model.onnx").read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / "model.onnx").write_bytes(data)

    _rejected(fleet, flip)


def too_large(fleet: Fleet, _: random.Random) -> None:
    """The load check rejects a version that needs more memory than `load_memory_bytes`."""
    _rejected(fleet, lambda folder: hostile_bundles.replaced(folder, hostile_bundles.huge()))


def _rejected(fleet: Fleet, damage: Callable[[Path], None]) -> None:
    version = fleet.publish(damage)
    rejected = f'kanserve_model_rejected{{model="toy",version="{version}"}}'
    facts = {"event": "model_load_failed", "model": "toy", "version": version}
    for node in fleet.nodes:
        until(lambda node=node: node.metric(rejected) == 1)
        assert node.ready()
        until(lambda node=node: any(facts.items() <= line.items() for line in node.events()))
        until(lambda node=node: reported(fleet, node, version))  # by the slower worker too
        assert fleet.served(node)[0] in fleet.versions
    fleet.withdraw(version)
    for node in fleet.nodes:
        until(lambda node=node: f'version="{version}"' not in node.http("/metrics")[1])


def reported(fleet: Fleet, node: Node, version: int) -> bool:
    """Whether `kanserve models` lists the version with the reason why it does not serve."""
    shown = json.loads(fleet.kanserve("models", "--json", *fleet.options(node)))["models"]
    (row,) = [row for row in shown if row["version"] == str(version)]
    return row["state"] == "UNAVAILABLE" and bool(row["reason"])


def good_version(fleet: Fleet, _: random.Random) -> None:
    """Every server serves it. The oldest version that is not the default one leaves the bucket, and serves until the
    servers restart."""
    version = fleet.publish()
    for node in fleet.nodes:
        until(lambda node=node: fleet.served(node, version)[0] == version)
    if len(fleet.versions) > KEPT:
        oldest = next(each for each in fleet.versions if fleet.served(fleet.nodes[0])[0] != each)
        fleet.versions.remove(oldest)
        fleet.withdraw(oldest)
        missing = f'kanserve_model_files_missing{{model="toy",version="{oldest}"}}'
        for node in fleet.nodes:
            until(lambda node=node: node.metric(missing) == 1)
            assert fleet.served(node, oldest)[0] == oldest


def promote(fleet: Fleet, draw: random.Random) -> None:
    """The file of the bucket decides on each server, and the rollback too."""
    before = fleet.served(fleet.nodes[0])[0]
    version = draw.choice([each for each in fleet.versions if each != before])
    for words, expected in ((("promote", "toy", version), version), (("rollback", "toy"), before)):
        fleet.kanserve(*words, "--repository", fleet.remote)
        for node in fleet.nodes:
            until(lambda node=node, expected=expected: fleet.served(node)[0] == expected)


def terminated(fleet: Fleet, draw: random.Random) -> None:
    """A graceful shutdown ends with 0; HAProxy sends calls to the other server."""
    node, other = draw.sample(fleet.nodes, 2)
    assert node.end() == 0
    until(lambda: fleet.in_turn(other))
    node.start()


def killed(fleet: Fleet, draw: random.Random) -> None:
    """Another server takes over. The workers of the killed process end after it, and free the ports."""
    node, other = draw.sample(fleet.nodes, 2)
    node.end(signal.SIGKILL)
    until(lambda: fleet.in_turn(other))
    until(lambda: not node.listens())
    node.start()


def worker_killed(fleet: Fleet, _: random.Random) -> None:
    """The server replaces it."""
    node = fleet.nodes[1]
    before = workers(node)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(workers(node) - before) == 1 and node.metric("kanserve_workers") == 2)


def workers(node: Node) -> set[int]:
    """The worker processes of a server, and no sandbox."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(node.process.pid)}
    return {pid for pid, command in commands.items() if b"kanserve.server.worker" in command}


def empty_start(fleet: Fleet, draw: random.Random) -> None:
    """A server without models is live, not ready and gets no calls, until a model lands."""
    node, other = draw.sample(fleet.nodes, 2)
    node.stop_sync()
    node.end()
    node.store.rename(fleet.folder / f"store-{time.monotonic_ns()}")
    node.store.mkdir()
    node.start()
    until(lambda: node.http("/healthz")[0] == 200)
    assert node.http("/readyz")[0] == 503
    until(lambda: fleet.in_turn(other))
    node.start_sync()


def empty_bucket(fleet: Fleet, _: random.Random) -> None:
    """The synchronization removes no model if the bucket is empty or absent."""
    aside = fleet.remote.rename(fleet.folder / "aside")
    for refusal, change in (("synchronization failed", lambda: None), ("nothing removed", fleet.remote.mkdir)):
        sizes = [node.sync_log.stat().st_size for node in fleet.nodes]
        change()
        for node, size in zip(fleet.nodes, sizes, strict=True):
            until(lambda node=node, size=size, refusal=refusal: refusal in node.sync_log.read_text()[size:])
    stores = [{path.name for path in (node.store / "toy").glob("[0-9]*")} for node in fleet.nodes]
    fleet.remote.rmdir()
    aside.rename(fleet.remote)
    assert stores == [set(map(str, fleet.versions))] * 2, stores
    marks = [node.store / ".synchronized" for node in fleet.nodes]
    before = [mark.stat().st_mtime_ns for mark in marks]
    until(lambda: all(mark.stat().st_mtime_ns > then for mark, then in zip(marks, before, strict=True)))


def certificates(fleet: Fleet, _: random.Random) -> None:
    """The next handshakes present the new certificate, with both workers of a server."""
    new = fleet.files.rotate()
    for node in fleet.nodes:
        until(lambda node=node: all(fleet.files.shown(node.ports["grpc"]) == new for _ in range(HANDSHAKES)))


def expired(fleet: Fleet, draw: random.Random) -> None:
    """An expired certificate is reported and not used."""
    certificates(fleet, draw)
    before = [fleet.files.shown(node.ports["grpc"]) for node in fleet.nodes]
    fleet.files.rotate("expired")
    metric = 'kanserve_credential_reload_failed{credential="certificates"}'
    for node in fleet.nodes:
        until(lambda node=node: node.metric(metric) == 1)
        until(lambda node=node: any(line["event"] == "credential_reload_failed" for line in node.events()))
    assert [fleet.files.shown(node.ports["grpc"]) for node in fleet.nodes] == before
    certificates(fleet, draw)


def tokens(fleet: Fleet, draw: random.Random) -> None:
    """A new token has access; a revoked one has not."""
    name = f"t{draw.randrange(10**9)}"
    token = fleet.new_token(name, "infer")

    def accepted(node: Node) -> bool:
        with fleet.client(node, token=token, retries=0) as client:
            try:
                return bool(client.model("toy"))
            except NotAllowed:
                return False

    for node in fleet.nodes:
        until(lambda node=node: accepted(node))
    fleet.kanserve("token", "revoke", name, "--tokens", fleet.folder / "tokens.toml")
    for node in fleet.nodes:
        until(lambda node=node: not accepted(node))


def probes(fleet: Fleet, _: random.Random) -> None:
    """HTTP/1.0 without a Host header, as HAProxy sends it, and HTTP/1.1."""
    for node in fleet.nodes:
        assert [node.http("/readyz", words)[0] for words in PROBE] == [200, 200]


def doctor(fleet: Fleet, draw: random.Random) -> None:
    """It finds no problem of a server that runs."""
    node = draw.choice(fleet.nodes)
    fleet.kanserve("doctor", *fleet.options(node), "--metrics", f"127.0.0.1:{node.ports['metrics']}")


def dead_proxy(fleet: Fleet, draw: random.Random) -> None:
    """Commands reach a server of this machine without the proxy of the environment."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"), "http://127.0.0.1:9")
    fleet.kanserve("health", *fleet.options(draw.choice(fleet.nodes)), **proxies)


def overload(fleet: Fleet, draw: random.Random) -> None:
    """Five times as many calls as the servers accept; they reject some, and serve afterwards."""
    ends = Counter[str]()
    while ends["UNAVAILABLE"] + ends["RESOURCE_EXHAUSTED"] < 5 * BURST:
        ends += storm(fleet, BURST)
    assert ends["OK"], ends


def cancelled(fleet: Fleet, draw: random.Random) -> None:
    """Calls that their client cancels leave nothing behind."""
    for _ in range(20):
        storm(fleet, BURST, cancel=True)


def storm(fleet: Fleet, count: int, *, cancel: bool = False) -> Counter[str]:
    """So many calls at the same time over eight connections; how they ended."""
    credentials = grpc.ssl_channel_credentials((fleet.folder / "ca.pem").read_bytes())
    data, flying = request(BATCH).SerializeToString(), []
    address, own = f"127.0.0.1:{fleet.ports['grpc']}", [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.secure_channel(address, credentials, own) for _ in range(8)]
    for at in range(count):
        call = channels[at % 8].unary_unary(f"{INFERENCE}ModelInfer")
        flying.append(call.future(data, timeout=60, metadata=bearer(fleet.token)))
    for call in flying if cancel else ():
        call.cancel()
    ends = Counter(
        "CANCELLED" if call.cancelled() else (call.code() or grpc.StatusCode.OK).name for call in done(flying)
    )
    for channel in channels:
        channel.close()
    return ends


def done(flying: list[Any]) -> list[Any]:
    """The calls, when they have ended."""
    for call in flying:
        until(call.done)
    return flying


def reloaded(fleet: Fleet, _: random.Random) -> None:
    """HAProxy starts another process; the old one ends its connections."""
    before = fleet.haproxy_worker()
    fleet.haproxy.send_signal(signal.SIGUSR2)
    until(lambda: fleet.haproxy_worker() not in (0, before))


def aged(fleet: Fleet, _: random.Random) -> None:
    """The servers close connections at their maximum age, and the clients open others."""
    before = fleet.sessions()
    until(lambda: fleet.sessions() > before + len(KINDS))


EVENTS: dict[str, Callable[[Fleet, random.Random], None]] = {
    "bad version": bad_version,
    "good version": good_version,
    "promote and rollback": promote,
    "SIGTERM of a server": terminated,
    "SIGKILL of a server": killed,
    "SIGKILL of a worker": worker_killed,
    "start without models": empty_start,
    "empty bucket": empty_bucket,
    "certificate rotation": certificates,
    "expired certificate": expired,
    "token added, revoked": tokens,
    "HTTP/1.0 probe": probes,
    "doctor": doctor,
    "dead proxy": dead_proxy,
    "overload, 5 times": overload,
    "cancellations": cancelled,
    "version too large": too_large,
    "HAProxy reload": reloaded,
    "connections at their age": aged,
}


def observe(scale: Scale, seed: int, events: list[str]) -> tuple[list[Line], list[Load], list[str]]:
    """The table, the clients, and the states that were not reached. The events come in random order, again and again
    until the minutes are over."""
    draw, lines, wrong = random.Random(seed), {name: Line(name) for name in events}, []
    windows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as fleet:
        loads = [Load(fleet, kind) for kind in KINDS]
        for load in loads:
            load.start()
        end = time.monotonic() + 60 * scale.minutes
        while not windows or time.monotonic() < end:
            for name in draw.sample(events, len(events)):
                begun, sizes = time.monotonic(), [len(load.samples) for load in loads]
                try:
                    EVENTS[name](fleet, draw)
                    until(lambda: all(node.ready() for node in fleet.nodes) and fleet.in_turn(*fleet.nodes))
                    until(lambda: all(sum(ok for *_, ok in load.samples[-SETTLED:]) == SETTLED for load in loads))
                    until(lambda old=sizes: all(len(b.samples) > a + SETTLED for a, b in zip(old, loads, strict=True)))
                except FAILURES as error:
                    lines[name].unreached += 1
                    wrong.append(f"{time.strftime('%H:%M:%S')} {name}: {error}")
                windows.append((name, begun, time.monotonic()))
                scale.tell(int(windows[-1][2] - end + 60 * scale.minutes), int(60 * scale.minutes))
                if scale.full:
                    lost = sum(len(load.lost) for load in loads)
                    print(
                        f"{time.strftime('%H:%M:%S')} {name}: {windows[-1][2] - begun:.1f} s, {lost} lost", flush=True
                    )
                if scale.minutes and time.monotonic() > end:
                    break
        for load in loads:
            load.ended.set()
        for load in loads:
            load.join(60)
        wrong += [f"{node.name}: {line}" for node in fleet.nodes for line in node.events() if line["event"] in FAULTS]
    for name, line in lines.items():
        count(line, [window for window in windows if window[0] == name], loads)
    return list(lines.values()), loads, wrong


def count(line: Line, windows: list[tuple[str, float, float]], loads: list[Load]) -> None:
    """Add the calls that end in the windows of an event."""
    seconds: list[float] = []
    for load in loads:
        last = 0.0
        for at, took, retries, ok in load.samples:
            if any(begun <= at < end for _, begun, end in windows):
                line.calls, line.retried, line.lost = line.calls + 1, line.retried + (retries > 0), line.lost + (not ok)
                seconds.append(took)
                line.longest_gap_s = round(max(line.longest_gap_s, at - last if last and ok else 0.0), 2)
            last = at if ok else last
    line.times, line.p50_ms, line.p99_ms = len(windows), milliseconds(seconds, 0.5), milliseconds(seconds)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The short form has few events, once each."""
    lines, loads, wrong = observe(scale, seed, list(EVENTS) if scale.full else list(SHORT))
    if scale.full:
        print(markdown(lines), flush=True)
    samples = [sample for load in loads for sample in load.samples]
    outputs = [text for load in loads for text in load.wrong]
    figures: dict[str, float | int | str] = {
        "minutes": round(scale.minutes, 1),
        "events": sum(line.times for line in lines),
        "calls": len(samples),
        "retried": sum(retries > 0 for _, _, retries, _ in samples),
        "lost": sum(not ok for *_, ok in samples),
        "wrong outputs": len(outputs),
        "states not reached": len(wrong),
        "p50 in ms": milliseconds([took for _, took, _, _ in samples], 0.5),
        "p99 in ms": milliseconds([took for _, took, _, _ in samples]),
        "longest gap in s": max(line.longest_gap_s for line in lines),
        "by event": json.dumps([asdict(line) for line in lines]),
    }
    good = figures["lost"] == len(outputs) == len(wrong) == 0
    notes = [*wrong, *outputs, *(text for load in loads for text in load.lost)]
    return Outcome(figures, good, len(samples), "; ".join(notes[:20]))


def markdown(lines: list[Line]) -> str:
    """The table of events."""
    names = list(asdict(lines[0]))
    rows = [names, ["---"] * len(names), *([str(value) for value in asdict(line).values()] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


ROW = Row(
    number="37",
    title="Fleet behind HAProxy",
    method=(
        "Two servers with TLS, tokens and synchronized repositories pass 19 kinds of events in random order. Clients "
        "of gRPC, REST, streams and batches retry."
    ),
    goal="30 minutes: no call lost, no wrong output, every event ends in its documented state.",
    result=(
        "{minutes} minutes, {events} events: {lost} of {calls} calls lost, {retried} retried, {wrong outputs} wrong "
        "outputs, longest gap {longest gap in s} s."
    ),
    needs=("trustme", "h2corn"),
    run=run,
    minutes=45,
)
test_row = suite(ROW)
