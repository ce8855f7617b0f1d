"""Worker process: one of several servers behind a port. The supervisor starts `python -m kanserve.server.worker`.

The first line on stdin is a JSON object. It has the settings, the inherited sockets, the address of the common metrics,
whether other workers serve already, and earlier orders about models. A later line reports that all workers are ready.
Further lines carry changes of settings, requests to scan the repository, and orders that another worker received. If
stdin closes, the supervisor has exited, and the worker stops.

The first line on stdout has the worker's addresses, or the reason why it does not start. Further lines carry orders
that clients gave to this worker. An empty line every second is the heartbeat of its event loop.
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

BEAT = 1.0  # seconds between two heartbeats


def main() -> int:
    """Run the worker. Returns 2 if the server does not start. Otherwise the process ends with the server."""
    start_message = json.loads(sys.stdin.buffer.readline())
    settings = Settings(**start_message["settings"])
    endpoints.inherit({int(port): fd for port, fd in start_message["sockets"].items()})
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(watchdog.last(_serve(settings, start_message)))
    except KanserveError as error:
        _send({"error": str(error), "code": error.code, "hint": error.hint})
        return 2


async def _serve(settings: Settings, start_message: Mapping[str, Any]) -> int:
    all_ready, changes = asyncio.Event(), Changes()
    relay = WorkerBus(pass_on=lambda order: _send_or_drop({"order": order}))
    for order in start_message["orders"]:
        relay.orders.put_nowait(order)
    place = app.WorkerContext(
        all_ready,
        start_message["late"],
        start_message["metrics"],
        relay,
        lambda reason: _send_or_drop({"not_ready": reason}),
        start_message["number"],
        start_message["of"],
    )
    tasks = [asyncio.create_task(_listen(place, changes))]

    async def beat() -> None:
        while True:
            _send_or_drop({})
            await asyncio.sleep(BEAT)

    def ready(addresses: Mapping[str, str]) -> None:
        _send(addresses)
        os.set_blocking(sys.stdout.fileno(), False)  # the supervisor may not read, which must not block the worker
        tasks.append(asyncio.create_task(beat()))

    try:
        return await app.serve(settings, ready=ready, place=place, changes=changes)
    finally:
        for task in tasks:
            task.cancel()


def _send_or_drop(what: Mapping[str, Any]) -> None:
    """Send a line that may get lost if the supervisor does not read; an empty one for an empty message."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), (json.dumps(what) if what else "").encode() + b"\n")


async def _listen(place: app.WorkerContext, changes: Changes) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while line := await reader.readline():
        message = json.loads(line)
        if "change" in message:
            changes.publish(Change(**message["change"]))
        elif "order" in message:
            place.relay.orders.put_nowait(message["order"])
        elif "look" in message:
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            place.all_ready.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _send(what: Mapping[str, Any]) -> None:
    print(json.dumps(dict(what)), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
