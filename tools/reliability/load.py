"""Closed-loop load clients in a separate process, so that the figures do not include the clients' work."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from tools.reliability.base import Scale

CALLERS, TOLD = 16, 50


@dataclass(frozen=True, slots=True)
class Told:
    """Result of a load: the number of calls per status code, and the duration."""

    codes: dict[str, int]
    seconds: float

    @property
    def lost(self) -> int:
        """All but the good ones."""
        return sum(count for code, count in self.codes.items() if code != "OK")


def closed(address: str, path: str, data: Sequence[bytes], count: int, scale: Scale | None = None) -> Told:
    """So many calls by CALLERS, with each of `data` in turn."""
    reported: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tools.reliability.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requested = {"address": address, "path": path, "data": [one.hex() for one in data], "count": count}
        process.stdin.write(json.dumps(requested))
        process.stdin.close()
        try:
            for line in process.stdout:
                reported.append(line)
                if scale is not None:
                    scale.tell(int(json.loads(line)["done"]), count)
        except BaseException:
            process.kill()
            raise
    last = json.loads(reported[-1])
    return Told(last["codes"], last["seconds"])


@contextlib.contextmanager
def asking(address: str, path: str, data: Sequence[bytes], callers: int, nice: int = 0) -> Iterator[Callable[[], int]]:
    """Clients without a pause during the block; afterwards the number of successful calls. `nice`: their priority below
    other clients on this machine."""
    with subprocess.Popen(
        [sys.executable, "-m", "tools.reliability.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requested = {"address": address, "path": path, "data": [one.hex() for one in data], "count": 10**9}
        process.stdin.write(json.dumps({**requested, "callers": callers, "nice": nice}))
        process.stdin.close()
        lines = [process.stdout.readline()]
        try:
            yield lambda: int(json.loads(lines[-1])["codes"].get("OK", 0))
        finally:
            process.terminate()
            lines += process.stdout.readlines()


async def ask(address: str, path: str, data: Sequence[bytes], count: int, callers: int) -> None:
    """Prints its progress after a number of calls."""
    codes: collections.Counter[str] = collections.Counter()
    begun, numbers = time.monotonic(), iter(range(count))

    async def caller() -> None:
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(path)
            for number in numbers:
                try:
                    await call(data[number % len(data)], timeout=30)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                if codes.total() % TOLD == 0:
                    say()

    def say() -> None:
        print(json.dumps({"done": codes.total(), "codes": codes, "seconds": time.monotonic() - begun}), flush=True)

    await asyncio.gather(*(caller() for _ in range(callers)))
    say()


if __name__ == "__main__":
    given = json.load(sys.stdin)
    os.nice(given.get("nice", 0))
    messages = [bytes.fromhex(one) for one in given["data"]]
    asyncio.run(ask(given["address"], given["path"], messages, given["count"], given.get("callers", CALLERS)))
