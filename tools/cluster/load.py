"""Load of real clients in a separate process, which counts lost, late, wrong and rejected calls.

    python -m tools.cluster.load < PLAN        a JSON list of plans; the end of the input ends the load

Each caller sends its calls at a fixed interval, and waits for each response. A slow response delays its next call.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import kanserve
from kanserve.types import TensorInfo
from tests.support import toy_model

LATE_SECONDS = 1.0
REJECTIONS = ("RESOURCE_EXHAUSTED",)
REJECTION_CODES = ("queue-full", "queue-timeout")  # error codes of kanserve with the status UNAVAILABLE
START_SECONDS, END_SECONDS = 60, 60
ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
EXPECTED = toy_model.outputs(ROWS)
INPUT = TensorInfo("x", "FP32", (-1, 3))


Error = tuple[str, str, str]  # gRPC status, error code of kanserve, text


@dataclass(frozen=True, slots=True)
class Plan:
    """Callers of one kind.

    name      name of the row in the table
    kind      `kanserve`: kanserve.Client; `triton`: tritonclient.grpc
    addresses HOST:PORT of each caller
    rate      calls per second of all callers
    retries   of kanserve.Client
    timeout   of a call, in seconds, with its retries
    options   further arguments of kanserve.Client
    model     the model, with `width` inputs
    """

    name: str
    kind: str
    addresses: tuple[str, ...]
    rate: float
    retries: int = 0
    timeout: float = 30.0
    options: dict[str, Any] = field(default_factory=dict)
    model: str = "toy"
    width: int = 3


@dataclass(slots=True)
class Count:
    """Calls of one plan. `lost` had no response, `wrong` another one than expected. `longest`: in seconds.

    errors   number of lost calls by their text
    moments  times of these losses, in seconds since the start of the load
    """

    calls: int = 0
    good: int = 0
    lost: int = 0
    wrong: int = 0
    late: int = 0
    rejected: int = 0
    longest: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    moments: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: float, error: Error | None, *, right: bool = True, moment: float = 0.0) -> None:
        """Count a call that ended at `moment`."""
        self.calls += 1
        self.late += seconds > LATE_SECONDS
        self.longest = max(self.longest, round(seconds, 3))
        if error is None:
            self.good += right
            self.wrong += not right
        elif error[0] in REJECTIONS or error[1] in REJECTION_CODES:
            self.rejected += 1
        else:
            self.lost += 1
            text = f"{error[0]}: {error[2]}"[:200]
            self.errors[text] = self.errors.get(text, 0) + 1
            self.moments.setdefault(text, []).append(round(moment, 1))


class Load:
    """Running load. Leave with `end`, which returns the counts by the name of the plan."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def end(self) -> dict[str, Count]:
        """End the callers after their last calls."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        output, _ = await asyncio.wait_for(self._process.communicate(), END_SECONDS)
        if self._process.returncode:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        return {name: Count(**count) for name, count in json.loads(output.splitlines()[-1]).items()}

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


async def start(plans: Sequence[Plan], nice: int = 0) -> Load:
    """Start the callers, and return when each has had a first response or error."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", "tools.cluster.load", str(nice))
    # In its own session, because Ctrl-C is for this process, which then ends the other.
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([asdict(plan) for plan in plans]).encode() + b"\n")
    await process.stdin.drain()
    if not await asyncio.wait_for(process.stdout.readline(), START_SECONDS):
        raise RuntimeError(f"the load ended with {await process.wait()} before its first call")
    return Load(process)


def caller(plan: Plan, address: str) -> Callable[[], Error | bool]:
    """A function that sends one call: whether the response is right, or the error."""
    if plan.kind == "triton":
        return _triton(plan, address)
    client = kanserve.Client(address, retries=plan.retries, timeout=plan.timeout, **plan.options)
    rows = ROWS if plan.model == "toy" else np.ones((1, plan.width), np.float32)
    tensor = INPUT if plan.model == "toy" else TensorInfo("x", "FP32", (-1, plan.width))

    def call() -> Error | bool:
        try:
            answer = client.infer(tensor, rows, name=plan.model)
        except kanserve.ClientError as error:
            return error.code, error.error_code, str(error)
        return plan.model != "toy" or np.allclose(answer.outputs["y"], EXPECTED, rtol=1e-4)

    return call


def _triton(plan: Plan, address: str) -> Callable[[], Error | bool]:
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)

    def call() -> Error | bool:
        try:
            answer = client.infer("toy", [tensor], client_timeout=plan.timeout)
        except triton.InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode."), "", str(error.message())
        return np.allclose(answer.as_numpy("y"), EXPECTED, rtol=1e-4)

    return call


def run(plans: Sequence[Plan], ended: threading.Event, begun: Callable[[], None]) -> dict[str, Count]:
    """Send calls until `ended`. `begun` is called when each caller has the end of its first call."""
    counts: dict[str, Count] = collections.defaultdict(Count)
    lock = threading.Lock()
    first = time.monotonic()
    together = threading.Barrier(1 + sum(len(plan.addresses) for plan in plans))

    def work(plan: Plan, address: str, number: int) -> None:
        call, interval = caller(plan, address), len(plan.addresses) / plan.rate
        call()
        together.wait(START_SECONDS)
        due = time.monotonic() + interval * number / len(plan.addresses)
        while not ended.wait(max(0.0, due - time.monotonic())):
            start = time.monotonic()
            got = call()
            now = time.monotonic()
            with lock:
                if isinstance(got, tuple):
                    counts[plan.name].add(now - start, got, moment=now - first)
                else:
                    counts[plan.name].add(now - start, None, right=bool(got))
            due = max(due + interval, now)

    threads = [
        threading.Thread(target=work, args=(plan, address, number), daemon=True)
        for plan in plans
        for number, address in enumerate(plan.addresses)
    ]
    for thread in threads:
        thread.start()
    together.wait(START_SECONDS)
    begun()
    for thread in threads:
        thread.join()
    return counts


def failed(hook: threading.ExceptHookArgs) -> None:
    """End the process with the traceback of a caller, so that a broken caller is not a load without losses."""
    traceback.print_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)
    os._exit(1)


def main() -> None:
    """Run the plans of the first line of the input, until its end."""
    os.nice(int(sys.argv[1]))
    plans = [Plan(**{**plan, "addresses": tuple(plan["addresses"])}) for plan in json.loads(sys.stdin.readline())]
    ended = threading.Event()
    threading.excepthook = failed

    def until_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=until_the_end, daemon=True).start()
    counts = run(plans, ended, lambda: print("begun", flush=True))
    print(json.dumps({name: asdict(count) for name, count in counts.items()}), flush=True)


if __name__ == "__main__":
    main()
