"""The card of a version: what `kanserve report` writes, made by the server itself, as JSON for the page or as the file.

What it takes is loaded when somebody asks. It is made on a thread, which has the server's own methods answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import orjson

from kanserve.errors import Exhausted, NotPossible
from kanserve.pb import kan_pb2
from kanserve.rpc.call import Call
from kanserve.rpc.kan import KanService
from kanserve.web.exchange import Answer, Asked

if TYPE_CHECKING:
    from kanserve.client.curves import LayerCurves

HTML = "text/html; charset=utf-8"
PATIENCE = 60.0  # seconds for curves, which take milliseconds


class Card:
    """One after the other: it takes a hundred milliseconds and more of a thread."""

    def __init__(self, service: KanService) -> None:
        self._service, self._turn = service, asyncio.Lock()

    async def report(self, asked: Asked, call: Call) -> Answer:
        """The report of a version; with `Accept: text/html` as the file."""
        name, version = asked.path["name"], asked.path.get("version", "")
        request = kan_pb2.DescribeModelRequest(model_name=name, model_version=version)
        described = kan_pb2.DescribeModelResponse.FromString(
            await self._service.describe_model(request.SerializeToString(), call)
        )
        scores = await self._scores(described, call)
        async with self._turn:
            loop, html = asyncio.get_running_loop(), HTML.split(";")[0] in asked.headers.get("accept", "")
            return await asyncio.to_thread(self._made, loop, described, scores, call, html=html)

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
        *,
        html: bool,
    ) -> Answer:
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
                return curves_.joined(waiting.result(PATIENCE))
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
