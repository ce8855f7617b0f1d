"""SIGTERM under load: no call in flight is lost, and a client that retries at once gets an error with the reason."""

from __future__ import annotations

import collections
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

CLIENTS = 16  # every second one asks again at once, whatever it was told, until nobody is there
LEAVING = "GRPC server is shutting down and has stopped accepting new requests."
GONE = ("Connection refused", "failed to connect")  # there is no port any more
# Retries stay on: gRPC repeats a request only if the GOAWAY says that the server has not seen it.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
ROWS = np.ones((4, 3), np.float32)
DATA, EXPECTED = request(ROWS).SerializeToString(), toy_model.outputs(ROWS)
PROBE = 0.1  # seconds between two probes
DELAY = 0.5  # seconds after SIGTERM in which the server accepts requests
# The short form has longer waits: it also runs on a busy machine, where a client can take 0.5 s to read a GOAWAY.
LONG_DELAY, LONG_HOLD = 2.0, {"KANSERVE_TEST_HELD": "0.5"}
CHECK, ASKED = "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest().SerializeToString()
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Seen:
    """Observations of one round."""

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    answered: int = 0
    wrong: int = 0
    refused_at: float = float("inf")
    not_ready: list[float] = field(default_factory=list)


def client(address: str, seen: Seen, *, stubborn: bool) -> None:
    """One call after the other."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        call = channel.unary_unary(f"{INFERENCE}ModelInfer")
        while True:
            try:
                answer = pb.ModelInferResponse.FromString(call(DATA, timeout=60))
            except grpc.RpcError as error:
                seen.refused_at = min(seen.refused_at, time.monotonic())
                words = error.details() or ""
                seen.ends[sort(error.code(), words)] += 1
                if not stubborn or any(gone in words for gone in GONE):
                    return
            else:
                seen.answered += 1
                result = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(4, 2)
                seen.wrong += not np.allclose(result, EXPECTED, rtol=1e-4)


def sort(code: grpc.StatusCode, words: str) -> str:
    """Kind of the error: `refused` with a status, `gone` without a port, or the status itself."""
    if code is grpc.StatusCode.UNAVAILABLE and LEAVING in words:
        return "refused"
    if code is grpc.StatusCode.UNAVAILABLE and any(gone in words for gone in GONE):
        return "gone"
    return f"{code.name} {words[:80]}"


def probe(address: str, seen: Seen) -> None:
    """Readiness on a separate connection, until the server is gone."""
    pause = threading.Event()
    with grpc.insecure_channel(address, OPTIONS) as channel:
        call = channel.unary_unary(CHECK)
        while True:
            try:
                said = health_pb2.HealthCheckResponse.FromString(call(ASKED, timeout=60)).status
            except grpc.RpcError:
                return
            if said == NOT_SERVING:
                seen.not_ready.append(time.monotonic())
            pause.wait(PROBE)


def one(server: Server) -> tuple[Seen, int, float]:
    """A round: the observations, the exit code, and seconds until the end."""
    seen = Seen()
    threads = [
        threading.Thread(target=client, args=(server.address, seen), kwargs={"stubborn": at % 2 == 1}, daemon=True)
        for at in range(CLIENTS)
    ]
    threads.append(threading.Thread(target=probe, args=(server.address, seen), daemon=True))
    for thread in threads:
        thread.start()
    until(lambda: seen.answered > 200)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(60)
    seconds = time.monotonic() - begun
    for thread in threads:
        thread.join(30)
    return seen, code, seconds


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Each round has a separate server."""
    rounds, delay, hold = (50, DELAY, {}) if scale.full else (1, LONG_DELAY, LONG_HOLD)
    ends: collections.Counter[str] = collections.Counter()
    answered = wrong = clean = 0
    probes, longest = 10**9, 0.0
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        waits: dict[str, Any] = {"drain_delay_seconds": delay, "drain_reject_seconds": 0.3}
        for at in range(rounds):
            with (
                mock.patch.dict(os.environ, hold),
                serving(Path(folder), transport=transport, access_log="none", **waits) as server,
            ):
                seen, code, seconds = one(server)
            ends += seen.ends
            answered, wrong, clean = answered + seen.answered, wrong + seen.wrong, clean + (code == 0)
            probes = min(probes, sum(when < seen.refused_at for when in seen.not_ready))
            longest = max(longest, seconds)
            scale.tell(at + 1, rounds)
    refused, gone = ends.pop("refused", 0), ends.pop("gone", 0)
    figures = {
        "rounds": rounds,
        "answered": answered,
        "refused in words": refused,
        "found no port": gone,
        "lost in flight": sum(ends.values()),
        "CANCELLED": sum(count for end, count in ends.items() if end.startswith("CANCELLED")),
        "wrong answers": wrong,
        "probes that saw it": probes,
        "exit code 0": clean,
        "longest end in s": round(longest, 2),
    }
    good = not ends and not wrong and probes >= 2 and clean == rounds and longest < 40
    return Outcome(figures, good, answered + refused, "; ".join(f"{count} x {end}" for end, count in ends.items()))


ROW = Row(
    number="21",
    title="Graceful shutdown under load",
    method=(
        "16 clients send requests without pause, half of them also after a rejection. A probe runs every 0.1 s. "
        "The server accepts requests for 0.5 s after SIGTERM."
    ),
    goal=(
        "50 rounds: no request in flight lost, no CANCELLED, 2 probes report not ready before the first "
        "rejection, exit code 0 within 40 s."
    ),
    result=(
        "{rounds} rounds: {lost in flight} lost, {CANCELLED} CANCELLED, {probes that saw it} probes, exit code 0 "
        "{exit code 0} times, slowest {longest end in s} s."
    ),
    wire=True,
    run=run,
)
test_row = suite(ROW)
