"""kanserve.v1.KanService: what a model is, and what its edges did."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable

from google.protobuf.message import Message

from kanexport.manifest import Manifest
from kanserve.errors import KanserveError
from kanserve.handlers import statistics
from kanserve.handlers.control import Chosen, Control
from kanserve.handlers.edges import EdgeQueries
from kanserve.handlers.explain import Explainer
from kanserve.handlers.kan import Kan
from kanserve.handlers.shadow import Report
from kanserve.handlers.watching import Watches
from kanserve.models.model import Model
from kanserve.nouns import EdgeRequest, EdgeResponse, ModelInfo
from kanserve.observe.metrics import UNKNOWN, Metrics
from kanserve.pb import kan_pb2
from kanserve.rpc import convert, describe, edge_messages, interpreting, paging, status
from kanserve.rpc.call import Call
from kanserve.rpc.guard import StreamMethod, UnaryMethod
from kanserve.rpc.status import Code
from kanserve.rpc.watched import Told

LARGE = 2**17  # bytes of an answer that is not built on the event loop: tens of microseconds


async def _written(size: int, made: Callable[[], Message]) -> bytes:
    """The bytes of a message of about `size` bytes. The server makes a large message on a thread."""
    if size < LARGE:
        return made().SerializeToString()
    return await asyncio.to_thread(lambda: made().SerializeToString())


def _choice(chosen: Chosen) -> bytes:
    answer = kan_pb2.VersionChoice(
        model_name=chosen.model, model_version=str(chosen.version), before=str(chosen.before)
    )
    return answer.SerializeToString()


def _shadow(report: Report) -> bytes:
    answer = kan_pb2.ShadowReport(
        model_name=report.model,
        model_version=str(report.version),
        against=str(report.against),
        running=report.running,
        share=report.share,
        tolerance=report.tolerance,
        requests=report.requests,
        rows=report.rows,
        rows_beyond=report.beyond,
        requests_dropped=report.dropped,
        requests_failed=report.failed,
        largest_difference=report.largest,
    )
    return answer.SerializeToString()


def _page(description: bytes, asked: kan_pb2.DescribeModelRequest) -> bytes:
    whole = kan_pb2.DescribeModelResponse.FromString(description)
    return paging.page(whole, asked.page_bytes, asked.page_token).SerializeToString()


class KanService:
    """From message bytes to a use case and back."""

    descriptor = kan_pb2.DESCRIPTOR.services_by_name["KanService"]

    def __init__(self, kan: Kan, control: Control, metrics: Metrics, watches: Watches) -> None:
        self._kan, self._edges, self._explainer, self._control = kan, EdgeQueries(kan), Explainer(kan), control
        self._watches, self._told = watches, Told()
        self._metrics = metrics
        self._describing: weakref.WeakKeyDictionary[Model, asyncio.Task[bytes]] = weakref.WeakKeyDictionary()

    def methods(self) -> dict[str, UnaryMethod]:
        """Name of the RPC -> what answers it."""
        return {
            "DescribeModel": self.describe_model,
            "QueryEdges": self.query_edges,
            "Explain": self.explain,
            "EdgeScores": self.edge_scores,
            "GetStatistics": self.get_statistics,
            "ResetStatistics": self.reset_statistics,
            "PromoteModel": self.promote_model,
            "RollbackModel": self.rollback_model,
            "ShadowModel": self.shadow_model,
        }

    def streams(self) -> dict[str, StreamMethod]:
        """The same for those that answer with a stream."""
        return {
            "GetCurves": self.get_curves,
            "StreamEdges": self.stream_edges,
            "WatchStatistics": self.watch_statistics,
        }

    def meant(self, name: str, version: str) -> tuple[ModelInfo, object]:
        """The version that a request means, and an object that identifies it while it serves. Raises what
        `DescribeModel` does."""
        model, _ = self._kan.describe(name, version)
        return model.info, model

    async def get_curves(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Curves of edges, a block a message."""
        message = await convert.parsed(kan_pb2.GetCurvesRequest, await anext(messages, b""))
        call.facts["model"] = message.model_name[:128]
        request = interpreting.curves_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        info, blocks = self._kan.curves(request)
        call.facts["version"] = info.version
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                yield interpreting.curves_to_pb(info, block).SerializeToString()

    async def explain(self, data: bytes, call: Call) -> bytes:
        """What the inputs of rows have to do with their answers."""
        message = await convert.parsed(kan_pb2.ExplainRequest, data)
        call.adopt(message.id)
        request = interpreting.explain_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        answer = await self._explainer.explain(request)
        call.facts["version"] = answer.info.version
        size = answer.what.contributions.nbytes + sum(layer.values.nbytes for layer in answer.what.path)
        return await _written(size, lambda: interpreting.explained_to_pb(answer))

    async def edge_scores(self, data: bytes, call: Call) -> bytes:
        """What each edge matters over rows."""
        message = await convert.parsed(kan_pb2.EdgeScoresRequest, data)
        call.adopt(message.id)
        request = interpreting.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        over = message.over
        if over == statistics.BEST and not request.row_count:
            over = statistics.best(self._kan, request)
        if over:
            found = await statistics.counted_scores(self._kan, request, over)
            call.facts["version"] = found.info.version
            answer = interpreting.scores_to_pb(found.info, request.id, found.over, found.rows, found.layers)
            answer.notes.extend(found.notes)
            return answer.SerializeToString()
        info, of, rows, layers = await self._kan.scores(request)
        call.facts["version"] = info.version
        size = sum(layer.edges.nbytes + layer.spread.nbytes for layer in layers)
        return await _written(size, lambda: interpreting.scores_to_pb(info, request.id, of, rows, layers))

    async def get_statistics(self, data: bytes, call: Call) -> bytes:
        """What a model's numbers are over rows, beside what they were."""
        message = await convert.parsed(kan_pb2.GetStatisticsRequest, data)
        call.adopt(message.id)
        request = interpreting.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        found = await statistics.statistics(self._kan, request, message.over)
        call.facts["version"] = found.info.version
        size = sum(nodes.window.counts.nbytes for nodes in found.nodes)
        return await _written(size, lambda: interpreting.statistics_to_pb(found))

    async def watch_statistics(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The same of a model's traffic, again and again."""
        message = await convert.parsed(kan_pb2.WatchStatisticsRequest, await anext(messages, b""))
        call.adopt(message.id)
        call.facts["model"] = message.model_name[:128]
        updates = self._watches.watch(interpreting.watch_from_pb(message, call.caller.name))
        with self._told as told:
            async with contextlib.aclosing(updates):
                async for found, ended in updates:
                    call.facts["version"] = found.info.version
                    yield await told.update(found, ended)

    async def reset_statistics(self, data: bytes, call: Call) -> bytes:
        """Count anew what a model is asked."""
        message = await convert.parsed(kan_pb2.ResetStatisticsRequest, data)
        call.facts["model"] = message.model_name[:128]
        info, since = statistics.reset(self._kan, message.model_name, message.model_version)
        self._watches.forget()
        self._control.counted_anew(info.name, info.version, since)
        call.facts["version"] = info.version
        answer = kan_pb2.ResetStatisticsResponse(model_name=info.name, model_version=str(info.version), since=since)
        return answer.SerializeToString()

    async def promote_model(self, data: bytes, call: Call) -> bytes:
        """Choose the version that answers by default."""
        message = await convert.parsed(kan_pb2.PromoteModelRequest, data)
        call.facts["model"] = message.model_name[:128]
        return _choice(self._control.promote(message.model_name, message.model_version))

    async def rollback_model(self, data: bytes, call: Call) -> bytes:
        """The version that answered by default before."""
        message = await convert.parsed(kan_pb2.RollbackModelRequest, data)
        call.facts["model"] = message.model_name[:128]
        return _choice(self._control.rollback(message.model_name))

    async def shadow_model(self, data: bytes, call: Call) -> bytes:
        """Try a version on the traffic of another, end that, or tell what came of it."""
        message = await convert.parsed(kan_pb2.ShadowModelRequest, data)
        call.facts["model"] = message.model_name[:128]
        if message.stop:
            return _shadow(self._control.unshadow(message.model_name))
        if not message.model_version:
            return _shadow(self._control.shadows.report(message.model_name))
        asked = (message.model_name, message.model_version, message.share, message.tolerance)
        return _shadow(self._control.shadow(*asked))

    async def describe_model(self, data: bytes, call: Call) -> bytes:
        """Layers, bases, masks, symbolic edges, and how well the export was verified."""
        message = await convert.parsed(kan_pb2.DescribeModelRequest, data)
        call.facts["model"] = message.model_name[:128]
        model, manifest = self._kan.describe(message.model_name, message.model_version)
        if not model.description:
            await self._described(model, manifest)
        if message.page_bytes or message.page_token:
            return await asyncio.to_thread(_page, model.description, message)
        return model.description

    async def _described(self, model: Model, manifest: Manifest) -> None:
        """Describe the model once for all calls that wait. The work goes on if some of them leave, because a thread
        cannot be cancelled."""
        task = self._describing.get(model)
        if task is None or task.done():
            work = asyncio.to_thread(self._description, model.info, manifest)
            task = self._describing[model] = asyncio.ensure_future(work)
        model.description = await asyncio.shield(task)
        self._describing.pop(model, None)

    def _description(self, info: ModelInfo, manifest: Manifest) -> bytes:
        """Megabytes, for a large model with masks."""
        limits = kan_pb2.QueryLimits(max_rows=self._kan.max_query_rows, max_response_bytes=self._kan.max_response_bytes)
        return describe.describe(info, manifest, limits).SerializeToString()

    async def query_edges(self, data: bytes, call: Call) -> bytes:
        """Edge values for rows."""
        request, estimate_only = await self._asked(data, call)
        if estimate_only:
            return edge_messages.estimated(request, *self._edges.estimate(request)).SerializeToString()
        response = await self._answered(request, call)
        if sum(layer.nbytes for layer in response.layers) < LARGE:
            return edge_messages.packed(response)
        return await asyncio.to_thread(edge_messages.packed, response)

    async def stream_edges(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The same, some rows or sources of a layer a message."""
        request, estimate_only = await self._asked(await anext(messages, b""), call)
        if estimate_only:
            yield edge_messages.estimated(request, *self._edges.estimate(request)).SerializeToString()
            return
        for part in edge_messages.parts(await self._answered(request, call)):
            yield edge_messages.packed(part)
            await asyncio.sleep(0)  # between copies of a megabyte others have their turn

    async def _asked(self, data: bytes, call: Call) -> tuple[EdgeRequest, bool]:
        """The request, and whether an estimate is all. Raises BadRequest."""
        message = await convert.parsed(kan_pb2.QueryEdgesRequest, data)
        call.adopt(message.id)
        request = edge_messages.from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        return request, message.estimate_only

    async def _answered(self, request: EdgeRequest, call: Call) -> EdgeResponse:
        started = time.perf_counter()
        outcome = Code.OK
        try:
            response = await self._edges.edges(request)
        except asyncio.CancelledError:
            outcome = Code.CANCELLED
            raise
        except KanserveError as error:
            outcome = status.code(error)
            raise
        finally:
            self._metrics.edge_query(*self._labels(request), outcome.name, time.perf_counter() - started)
        call.facts["version"] = response.version
        return response

    def _labels(self, request: EdgeRequest) -> tuple[str, str]:
        """Model and version as loaded; the client's words never become labels."""
        try:
            info = self._kan.registry.resolve(request.model, request.version).info
        except KanserveError:
            return UNKNOWN, ""
        return info.name, str(info.version)
