"""kanserve.v1.KanService: what a model is, and what its edges did."""

from __future__ import annotations

import asyncio
import time

from kanserve.errors import KanserveError
from kanserve.handlers.kan import Kan
from kanserve.nouns import EdgeRequest
from kanserve.observe.metrics import UNKNOWN, Metrics
from kanserve.pb import kan_pb2
from kanserve.rpc import convert, describe, status
from kanserve.rpc.call import Call
from kanserve.rpc.guard import UnaryMethod
from kanserve.rpc.status import Code


class KanService:
    """From message bytes to a use case and back."""

    descriptor = kan_pb2.DESCRIPTOR.services_by_name["KanService"]

    def __init__(self, kan: Kan, metrics: Metrics) -> None:
        self._kan = kan
        self._metrics = metrics

    def methods(self) -> dict[str, UnaryMethod]:
        """Name of the RPC -> what answers it."""
        return {"DescribeModel": self.describe_model, "QueryEdges": self.query_edges}

    async def describe_model(self, data: bytes, call: Call) -> bytes:
        """Layers, bases, masks, symbolic edges, and how well the export was verified."""
        message = convert.parse(kan_pb2.DescribeModelRequest, data)
        call.facts["model"] = message.model_name[:128]
        info, manifest = self._kan.describe(message.model_name, message.model_version)
        limits = kan_pb2.QueryLimits(max_rows=self._kan.max_query_rows, max_response_bytes=self._kan.max_response_bytes)
        return describe.describe(info, manifest, limits).SerializeToString()

    async def query_edges(self, data: bytes, call: Call) -> bytes:
        """Edge values for rows."""
        message = convert.parse(kan_pb2.QueryEdgesRequest, data)
        call.adopt(message.id)
        request = convert.edges_from_pb(message, deadline=call.deadline)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        started = time.perf_counter()
        outcome = Code.OK
        try:
            response = await self._kan.edges(request)
        except asyncio.CancelledError:
            outcome = Code.CANCELLED
            raise
        except KanserveError as error:
            outcome = status.code(error)
            raise
        finally:
            self._metrics.edge_query(*self._labels(request), outcome.name, time.perf_counter() - started)
        call.facts["version"] = response.version
        return convert.edges_to_pb(response).SerializeToString()

    def _labels(self, request: EdgeRequest) -> tuple[str, str]:
        """Model and version as loaded; the client's words never become labels."""
        try:
            info = self._kan.registry.resolve(request.model, request.version).info
        except KanserveError:
            return UNKNOWN, ""
        return info.name, str(info.version)
