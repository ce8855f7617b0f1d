"""kanserve.v1.KanService: model descriptions, edge queries, explanations and statistics."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from kanexport.shared.manifest import Manifest
from kanserve.errors import BadRequest, FailedPrecondition, KanserveError
from kanserve.grpc_api import call_context, infer_codec, kan_codec, model_codec
from kanserve.grpc_api.call_context import Call, Code
from kanserve.grpc_api.kan_codec import UpdateCache
from kanserve.models.model import Model
from kanserve.observability.metrics import UNKNOWN, Metrics
from kanserve.pb import kan_pb2
from kanserve.services import statistics
from kanserve.services.control import Control
from kanserve.services.edits import Editor
from kanserve.services.explain import Explainer
from kanserve.services.kan import Kan
from kanserve.services.statistics import Watches, WatchRequest
from kanserve.types import EdgeRequest, EdgeResponse, ModelInfo

EFFECT = 32  # bytes of an effect in a certificate
# The field that depends on the caller. The bytes of two messages in a row are one message with the fields of both.
EDITABLE = kan_pb2.DescribeModelResponse(editable=True).SerializeToString()
LARGE = 2**17  # bytes of a response that is not built on the event loop: tens of microseconds


async def _written(size: int, build: Callable[[], Message]) -> bytes:
    """The bytes of a message of about `size` bytes. The server makes a large message on a thread."""
    if size < LARGE:
        return build().SerializeToString()
    return await asyncio.to_thread(lambda: build().SerializeToString())


M = TypeVar("M", bound=Message)


async def _read(kind: type[M], data: bytes, call: Call) -> M:
    """The message of a call, whose id, model and number of rows the call notes. Raises BadRequest."""
    message = await infer_codec.parsed(kind, data)
    fields: Any = message
    if "id" in kind.DESCRIPTOR.fields_by_name:
        call.adopt(fields.id)
    call.facts["model"] = fields.model_name[:128]
    if "row_count" in kind.DESCRIPTOR.fields_by_name:
        call.facts["rows"] = fields.row_count
    return message


class KanService:
    """Methods of KanService, from message bytes to response bytes: describe_model has DescribeModel, and so on."""

    descriptor = kan_pb2.DESCRIPTOR.services_by_name["KanService"]

    def __init__(self, kan: Kan, control: Control, metrics: Metrics, watches: Watches, editor: Editor) -> None:
        self._kan, self._explainer, self._control = kan, Explainer(kan), control
        self._watches, self._updates = watches, UpdateCache()
        self._metrics, self._editor = metrics, editor
        self._describing: weakref.WeakKeyDictionary[Model, asyncio.Task[bytes]] = weakref.WeakKeyDictionary()
        self._descriptions: weakref.WeakKeyDictionary[Model, bytes] = weakref.WeakKeyDictionary()

    async def get_curves(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Curves of edges, one block per message."""
        message = await _read(kan_pb2.GetCurvesRequest, await anext(messages, b""), call)
        request = kan_codec.curves_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        info, blocks = self._kan.curves(request)
        call.facts["version"] = info.version
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                yield kan_codec.curves_to_pb(info, block).SerializeToString()

    async def explain(self, data: bytes, call: Call) -> bytes:
        """Contributions of the inputs to the predictions of some rows."""
        message = await _read(kan_pb2.ExplainRequest, data, call)
        request = kan_codec.explain_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        result = await self._explainer.explain(request)
        call.facts["version"] = result.info.version
        size = result.what.contributions.nbytes + sum(layer.values.nbytes for layer in result.what.path)
        return await _written(size, lambda: kan_codec.explained_to_pb(result))

    async def edge_scores(self, data: bytes, call: Call) -> bytes:
        """Importance of each edge over some rows."""
        message = await _read(kan_pb2.EdgeScoresRequest, data, call)
        request = kan_codec.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        info, scores = await statistics.scores(self._kan, request, message.source)
        call.facts["version"] = info.version
        size = sum(layer.edges.nbytes + layer.std.nbytes for layer in scores.layers)
        return await _written(size, lambda: kan_codec.scores_to_pb(info, request.id, scores))

    async def get_statistics(self, data: bytes, call: Call) -> bytes:
        """Statistics of a model's nodes over some rows, compared with the baseline."""
        message = await _read(kan_pb2.GetStatisticsRequest, data, call)
        request = kan_codec.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        result = await statistics.statistics(self._kan, request, message.source)
        call.facts["version"] = result.info.version
        size = sum(nodes.window.counts.nbytes for nodes in result.over.nodes)
        return await _written(size, lambda: kan_codec.statistics_to_pb(result))

    async def watch_statistics(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """A stream of statistics of a model's traffic."""
        message = await _read(kan_pb2.WatchStatisticsRequest, await anext(messages, b""), call)
        updates = self._watches.watch(kan_codec.read(WatchRequest, message, caller=call.caller.name))
        with self._updates as cache:
            async with contextlib.aclosing(updates):
                async for result, ended in updates:
                    call.facts["version"] = result.info.version
                    yield await cache.update(result, ended)

    async def reset_statistics(self, data: bytes, call: Call) -> bytes:
        """Restart the statistics of a model's traffic."""
        message = await _read(kan_pb2.ResetStatisticsRequest, data, call)
        info, since = statistics.reset(self._kan, message.model_name, message.model_version)
        self._watches.forget()
        self._control.counted_anew(info.name, info.version, since)
        call.facts["version"] = info.version
        response = kan_pb2.ResetStatisticsResponse(model_name=info.name, model_version=str(info.version), since=since)
        return response.SerializeToString()

    async def promote_model(self, data: bytes, call: Call) -> bytes:
        """Set the default version of a model."""
        message = await _read(kan_pb2.PromoteModelRequest, data, call)
        choice = self._control.promote(message.model_name, message.model_version)
        return kan_codec.version_choice(message.model_name, choice)

    async def rollback_model(self, data: bytes, call: Call) -> bytes:
        """Restore the previous default version of a model."""
        message = await _read(kan_pb2.RollbackModelRequest, data, call)
        return kan_codec.version_choice(message.model_name, self._control.rollback(message.model_name))

    async def shadow_model(self, data: bytes, call: Call) -> bytes:
        """Start a shadow deployment, end it, or return its results."""
        message = await _read(kan_pb2.ShadowModelRequest, data, call)
        if message.stop:
            return kan_codec.shadow_report(self._control.unshadow(message.model_name))
        if not message.model_version:
            return kan_codec.shadow_report(self._control.shadows.report(message.model_name))
        arguments = (message.model_name, message.model_version, message.share, message.tolerance)
        return kan_codec.shadow_report(self._control.shadow(*arguments))

    async def edit_edges(self, data: bytes, call: Call) -> bytes:
        """Edit edges of a version, and write a new version."""
        message = await _read(kan_pb2.EditEdgesRequest, data, call)
        result = await self._editor.edit(kan_codec.edits_from_pb(message, author=call.caller.name))
        call.facts["version"] = result.edit.parent_version
        return kan_codec.edited_to_pb(result).SerializeToString()

    async def describe_model(self, data: bytes, call: Call) -> bytes:
        """Layers, bases, masks, symbolic edges, and the verification of the export."""
        message = await _read(kan_pb2.DescribeModelRequest, data, call)
        model, manifest = self._kan.describe(message.model_name, message.model_version)
        if model not in self._descriptions:
            # Once for all calls that wait. The work goes on if some leave, because a thread cannot be cancelled.
            task = self._describing.get(model)
            if task is None or task.done():
                work = asyncio.to_thread(self._description, model.info, manifest)
                task = self._describing[model] = asyncio.ensure_future(work)
            self._descriptions[model] = await asyncio.shield(task)
            self._describing.pop(model, None)
        description = self._descriptions[model]
        if self._editor.accepts(model.info, manifest, call.caller):
            description += EDITABLE
        if message.page_bytes or message.page_token:
            arguments = message.page_bytes, message.page_token
            return await _written(LARGE, lambda: page(Response.FromString(description), *arguments))
        return description

    async def get_certificates(self, data: bytes, call: Call) -> bytes:
        """The certificates of a version."""
        message = await _read(kan_pb2.GetCertificatesRequest, data, call)
        model, manifest = self._kan.describe(message.model_name, message.model_version)
        call.facts["version"] = model.info.version
        size = EFFECT * len(manifest.certificate.low) * len(manifest.certificate.output_low)
        return await _written(size, lambda: model_codec.certificates(model.info, manifest))

    def _description(self, info: ModelInfo, manifest: Manifest) -> bytes:
        """The description of a version, which takes megabytes for a large model with masks."""
        limits = kan_pb2.QueryLimits(
            max_rows=self._kan.max_edge_query_rows, max_response_bytes=self._kan.max_response_bytes
        )
        return model_codec.describe(info, manifest, limits).SerializeToString()

    async def query_edges(self, data: bytes, call: Call) -> bytes:
        """Edge values for rows."""
        request, estimate_only = await self._edge_request(data, call)
        if estimate_only:
            return kan_codec.estimated(request, *self._kan.estimate(request)).SerializeToString()
        response = await self._edge_response(request, call)
        if sum(layer.nbytes for layer in response.layers) < LARGE:
            return kan_codec.packed(response)
        return await asyncio.to_thread(kan_codec.packed, response)

    async def stream_edges(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Edge values for rows, in messages with some rows or sources of a layer."""
        request, estimate_only = await self._edge_request(await anext(messages, b""), call)
        if estimate_only:
            yield kan_codec.estimated(request, *self._kan.estimate(request)).SerializeToString()
            return
        for part in kan_codec.parts(await self._edge_response(request, call)):
            yield kan_codec.packed(part)
            await asyncio.sleep(0)  # other calls run between two copies of a megabyte

    async def _edge_request(self, data: bytes, call: Call) -> tuple[EdgeRequest, bool]:
        """The request, and whether it requests only an estimate. Raises BadRequest."""
        message = await _read(kan_pb2.QueryEdgesRequest, data, call)
        request = kan_codec.from_pb(message, deadline=call.deadline, caller=call.caller.name)
        return request, message.estimate_only

    async def _edge_response(self, request: EdgeRequest, call: Call) -> EdgeResponse:
        started = time.perf_counter()
        outcome = Code.OK
        try:
            response = await self._kan.edges(request)
        except asyncio.CancelledError:
            outcome = Code.CANCELLED
            raise
        except KanserveError as error:
            outcome = call_context.code(error)
            raise
        finally:
            labels = UNKNOWN, ""  # or as loaded, because text of a client must not become a label
            with contextlib.suppress(KanserveError):
                info = self._kan.registry.resolve(request.model, request.version).info
                labels = info.name, str(info.version)
            self._metrics.edge_query(*labels, outcome.name, time.perf_counter() - started)
        call.facts["version"] = response.version
        return response


Response = kan_pb2.DescribeModelResponse
LEAST = 2**14  # bytes of a page
EDGES = 256  # symbolic edges of one part
NUMBER = 4  # bytes of one of a mask
TOKEN = 16  # characters of the digest in it


def page(whole: Response, size: int, token: str) -> Response:
    """A page of about `size` bytes of a description, the first without a token. Raises BadRequest for an invalid token,
    FailedPrecondition for a token of another version."""
    if size < LEAST:
        raise BadRequest(
            f"page_bytes is {size}, expected {LEAST} or more",
            code="page-size-invalid",
            hint="send 0 for the complete description in one response",
        )
    current = Response()
    current.CopyFrom(whole)
    del current.layers[:]
    pages, used = [current], current.ByteSize()
    for layer in whole.layers:
        for part in _parts(layer, size):
            needed = part.ByteSize() + 2 * NUMBER
            if used + needed > size and current.layers:
                current, used = Response(model_name=whole.model_name, model_version=whole.model_version), 0
                current.digest = whole.digest
                pages.append(current)
            current.layers.append(part)
            used += needed
    at, count = 0, len(pages)
    if token:
        digest, _, number = token.rpartition(".")
        if not (number.isdecimal() and len(number) <= 9 and digest):
            raise BadRequest(
                f"invalid page_token {token[:40]!r}",
                code="page-token-invalid",
                hint="request the first page, without one",
            )
        if digest != whole.digest[:TOKEN]:
            raise FailedPrecondition(
                f"model '{whole.model_name}' has changed since the first page",
                code="page-token-outdated",
                hint="request the first page again",
            )
        at = int(number)
        if not 0 < at < count:
            raise BadRequest(
                f"page_token {token[:40]!r} does not fit {count} pages of this size",
                code="page-token-invalid",
                hint="send the page_bytes of the first page",
            )
    if at + 1 < count:
        pages[at].next_page_token = f"{whole.digest[:TOKEN]}.{at + 1}"
    return pages[at]


def _parts(layer: kan_pb2.Layer, size: int) -> Iterator[kan_pb2.Layer]:
    """The layer, or if it is larger than a page, first the layer without mask and symbolic edges, then these."""
    if layer.ByteSize() <= size:
        yield layer
        return
    first = kan_pb2.Layer()
    first.CopyFrom(layer)
    first.ClearField("mask")
    first.ClearField("symbolic")
    yield first
    row = NUMBER * layer.destinations
    step = max(1, size // (2 * max(row, 1)))
    for at in range(0, len(layer.mask) // max(row, 1), step):
        yield kan_pb2.Layer(index=layer.index, mask=layer.mask[at * row : (at + step) * row])
    for at in range(0, len(layer.symbolic), EDGES):
        yield kan_pb2.Layer(index=layer.index, symbolic=layer.symbolic[at : at + EDGES])
