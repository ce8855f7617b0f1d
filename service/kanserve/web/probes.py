"""What orchestrators and Prometheus ask on the shared port: /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from kanserve.handlers.catalogue import Catalogue
from kanserve.observe.metrics import CONTENT_TYPE, Metrics
from kanserve.rpc.call import Call
from kanserve.web.exchange import Answer, Asked

TEXT = "text/plain; charset=utf-8"


class Probes:
    """Answers from the catalogue's state."""

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self._catalogue, self._metrics = catalogue, metrics

    async def live(self, asked: Asked, call: Call) -> Answer:
        """200 while the process means to go on."""
        return _state(self._catalogue.live())

    async def ready(self, asked: Asked, call: Call) -> Answer:
        """200 once every version is loaded, until the server begins to leave."""
        return _state(self._catalogue.ready())

    async def metrics(self, asked: Asked, call: Call) -> Answer:
        """The page of the metrics port, written on a thread: it takes milliseconds."""
        return Answer(await asyncio.to_thread(self._metrics.text), CONTENT_TYPE)


def _state(good: bool) -> Answer:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(b"ok\n" if good else b"not ready\n", TEXT, status)
