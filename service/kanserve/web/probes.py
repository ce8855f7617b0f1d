"""What orchestrators and Prometheus ask on the shared port: /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from kanserve.handlers.catalogue import Catalogue
from kanserve.observe.merged import Page
from kanserve.observe.metrics import CONTENT_TYPE
from kanserve.rpc.call import Call
from kanserve.web.exchange import Answer, Asked

TEXT = "text/plain; charset=utf-8"


class Probes:
    """Answers from the catalogue's state."""

    def __init__(self, catalogue: Catalogue, page: Page) -> None:
        self._catalogue, self._page = catalogue, page
        self._written: asyncio.Task[bytes] | None = None

    async def live(self, asked: Asked, call: Call) -> Answer:
        """200 while the process means to go on."""
        return _state(self._catalogue.live())

    async def ready(self, asked: Asked, call: Call) -> Answer:
        """200 once every version is loaded, until the server begins to leave."""
        return _state(self._catalogue.ready())

    async def metrics(self, asked: Asked, call: Call) -> Answer:
        """The page of the metrics port, for all workers. A thread writes it, which takes milliseconds, and much longer
        for hundreds of models. Requests that arrive meanwhile get the same page, so many of them cost no more than
        one."""
        if self._written is None or self._written.done():
            self._written = asyncio.ensure_future(asyncio.to_thread(self._page.text))
        return Answer(await asyncio.shield(self._written), CONTENT_TYPE)


def _state(good: bool) -> Answer:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(b"ok\n" if good else b"not ready\n", TEXT, status)
