"""The card of a version: what `kanserve report` writes, made by the server itself, as JSON for the page or as the file.

The server imports the modules for a report on the first request. A thread makes the report from the answers of the
server's own methods. All requests for one version wait for one report, and the server keeps it. If all of them leave,
the server stops making the report.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import orjson

from kanserve.errors import Exhausted, NotPossible
from kanserve.nouns import ModelInfo
from kanserve.pb import kan_pb2
from kanserve.rpc.call import Call
from kanserve.rpc.kan import KanService
from kanserve.web.exchange import Answer, Asked
from kanserve.web.once import Abandoned, Bound, Once

if TYPE_CHECKING:
    from kanserve.client.curves import LayerCurves

T = TypeVar("T")
HTML = "text/html; charset=utf-8"
GLANCE = 0.1  # seconds after which a thread that waits for curves sees that all requests have left
PATIENCE = 60.0  # seconds for curves, which take milliseconds


class Card:
    """The reports of all versions, made with `once`, because a report takes a hundred milliseconds or more of a
    thread."""

    def __init__(self, service: KanService, bound: Bound | None = None) -> None:
        self._service, self._once = service, Once(bound or Bound())

    async def report(self, asked: Asked, call: Call) -> Answer:
        """The report of a version; with `Accept: text/html` as the file. Raises what `DescribeModel` does, TookTooLong
        and QueueFull."""
        info, model = self._service.meant(asked.path["name"], asked.path.get("version", ""))
        call.facts |= {"model": info.name, "version": info.version}
        html = HTML.split(";")[0] in asked.headers.get("accept", "")
        caller = call.caller

        async def make(gone: threading.Event) -> Answer:
            own = Call(call.request_id, call.given, None)  # it may outlive the call that began it
            own.caller = caller
            return await self._report(info, own, gone, html=html)

        return await self._once.get((info.name, info.version, html), model, make)

    async def _report(self, info: ModelInfo, call: Call, gone: threading.Event, *, html: bool) -> Answer:
        request = kan_pb2.DescribeModelRequest(model_name=info.name, model_version=str(info.version))
        data = await self._service.describe_model(request.SerializeToString(), call)
        described = await asyncio.to_thread(kan_pb2.DescribeModelResponse.FromString, data)
        scores = await self._scores(described, call)
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(self._made, loop, described, scores, call, gone, html=html)

    async def _scores(self, described: kan_pb2.DescribeModelResponse, call: Call) -> kan_pb2.EdgeScoresResponse | None:
        """Over the rows of the export; None where a model has none, or too many."""
        request = kan_pb2.EdgeScoresRequest(model_name=described.model_name, model_version=described.model_version)
        try:
            answer = await self._service.edge_scores(request.SerializeToString(), call)
        except (NotPossible, Exhausted):
            return None
        return kan_pb2.EdgeScoresResponse.FromString(answer)

    def _made(
        self,
        loop: asyncio.AbstractEventLoop,
        told: kan_pb2.DescribeModelResponse,
        scored: kan_pb2.EdgeScoresResponse | None,
        call: Call,
        gone: threading.Event,
        *,
        html: bool,
    ) -> Answer:
        """Make the report, on a thread. Raises Abandoned if no request waits for it any more."""
        from kanserve.client import curves as curves_
        from kanserve.client import scores as scores_
        from kanserve.client.description import from_pb
        from kanserve.pictures import page
        from kanserve.portrait import contents
        from kanserve.portrait import told as words

        def curves(
            *, layers: Sequence[int], sources: Sequence[int] = (), destinations: Sequence[int] = (), points: int
        ) -> Sequence[LayerCurves]:
            request = kan_pb2.GetCurvesRequest(
                model_name=told.model_name,
                model_version=told.model_version,
                layers=layers,
                sources=sources,
                destinations=destinations,
                points=points,
            )
            waiting = asyncio.run_coroutine_threadsafe(self._curves(request, call), loop)
            try:
                found: list[kan_pb2.CurveBlock] = _awaited(waiting, gone)
                return curves_.joined(found)
            except (NotPossible, Exhausted):  # edges of class B are no curves, and there may be little room
                return ()

        scores = None if scored is None else scores_.of(scored)
        report = contents.report(curves, from_pb(told), scores)
        if html:
            name = f"{told.model_name}-{told.model_version}.html"
            return Answer(
                page.html(report).encode(), HTML, headers={"content-disposition": f'attachment; filename="{name}"'}
            )
        return Answer(orjson.dumps(words.plain(report)))

    async def _curves(self, request: kan_pb2.GetCurvesRequest, call: Call) -> list[kan_pb2.CurveBlock]:
        async def one() -> AsyncIterator[bytes]:
            yield request.SerializeToString()

        return [kan_pb2.CurveBlock.FromString(data) async for data in self._service.get_curves(one(), call)]


def _awaited(waiting: Future[T], gone: threading.Event) -> T:
    """Wait on a thread for the result of a coroutine. Raises the coroutine's error, TimeoutError, or Abandoned. If it
    raises one of the last two, it cancels the coroutine."""
    end = time.monotonic() + PATIENCE
    while not gone.is_set() and time.monotonic() < end:
        try:
            return waiting.result(GLANCE)
        except TimeoutError:
            if waiting.done():
                raise
    waiting.cancel()
    raise Abandoned if gone.is_set() else TimeoutError
