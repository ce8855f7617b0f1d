"""Worker process: one of several servers behind a port. The supervisor starts `python -m kanserve.server.worker`.

On stdin comes one line of JSON: the settings, the sockets that are inherited, where the metrics of all are, and whether
others serve already, who should not lose callers to one that still loads, and what they were told to do with models;
then one more once all are ready, and one for each change of settings, each look at the repository that is asked for,
and each such order that another worker got. Its end means that nobody watches any more, and the worker leaves. On
stdout goes one line: where it listens, or why it does not; after that one for each order that callers gave to this one,
and an empty one every second, as a sign of life of its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from kanserve.config.reload import Change, Changes
from kanserve.config.settings import Settings
from kanserve.errors import KanserveError
from kanserve.observability import logs
from kanserve.server import app, watchdog
from kanserve.services.control import WorkerBus
from kanserve.transport import endpoints

BEAT = 1.0  # seconds between two signs of life


def main() -> int:
    """Returns 2 if the server does not start. Otherwise the process ends with the server."""
    given = json.loads(sys.stdin.buffer.readline())
    settings = Settings(**given["settings"])
    endpoints.inherit({int(port): fd for port, fd in given["sockets"].items()})
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(watchdog.last(_serve(settings, given)))
    except KanserveError as error:
        _say({"error": str(error)})
        return 2


async def _serve(settings: Settings, given: Mapping[str, Any]) -> int:
    told, changes, relay = asyncio.Event(), Changes(), WorkerBus(pass_on=lambda order: _tell({"order": order}))
    for order in given["orders"]:
        relay.orders.put_nowait(order)
    place = app.WorkerContext(told, given["late"], given["metrics"], relay, given["number"], given["of"])
    tasks = [asyncio.create_task(_listen(place, changes))]

    def ready(addresses: Mapping[str, str]) -> None:
        _say(addresses)
        tasks.append(asyncio.create_task(_live()))

    try:
        return await app.serve(settings, ready=ready, place=place, changes=changes)
    finally:
        for task in tasks:
            task.cancel()


async def _live() -> None:
    """A full pipe means that nobody listens, which must not hold anything up."""
    os.set_blocking(sys.stdout.fileno(), False)
    while True:
        _tell({})
        await asyncio.sleep(BEAT)


def _tell(what: Mapping[str, Any]) -> None:
    """A line that may get lost where nobody listens; an empty one for nothing."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), (json.dumps(what) if what else "").encode() + b"\n")


async def _listen(place: app.WorkerContext, changes: Changes) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while line := await reader.readline():
        said = json.loads(line)
        if "change" in said:
            changes.publish(Change(**said["change"]))
        elif "order" in said:
            place.relay.orders.put_nowait(said["order"])
        elif "look" in said:
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            place.together.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _say(what: Mapping[str, Any]) -> None:
    print(json.dumps(dict(what)), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
