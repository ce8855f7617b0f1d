"""KanService over HTTP: its requests and answers as JSON, under /v1/kan.

A request has the fields of the RPC's message, with rows as lists of numbers; an answer has those of the RPC's answer,
with arrays as nested lists, or as bytes behind the JSON (`packed`). What a request may hold is said once, by the RPC.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from kanexport.shared.nearest import advice
from kanserve.errors import BadRequest, Exhausted
from kanserve.handlers.catalogue import Catalogue
from kanserve.nouns import ModelInfo, TensorInfo
from kanserve.pb import kan_pb2
from kanserve.rpc import convert
from kanserve.rpc.call import Call
from kanserve.rpc.kan import KanService
from kanserve.web import arrays, document, numbers
from kanserve.web.exchange import Answer, Asked, Method
from kanserve.web.packed import Told

ROWS = {"rows": ("rows", "row_count"), "reference_rows": ("reference_rows", "reference_count")}
RESET = "statistics/reset"  # as the last part of a path
OF_PATH = frozenset({"model_name", "model_version"})
HELD = frozenset({"inputs", "reference_count"})  # what lists of rows say by themselves


class KanPages:
    """From a request to a method of the service and back. `typed`: bytes of rows as numbers in JSON; `most`: of an
    answer in any form."""

    def __init__(self, service: KanService, catalogue: Catalogue, typed: int, most: int) -> None:
        self._service, self._catalogue, self._typed, self._most = service, catalogue, typed, most

    def methods(self) -> dict[str, tuple[str, Method]]:
        """Last part of the path -> verb, and what answers it."""
        service = self._service
        asked: dict[str, tuple[type[Message], type[Message], Callable[[bytes, Call], Awaitable[bytes]]]] = {
            "edges": (kan_pb2.QueryEdgesRequest, kan_pb2.QueryEdgesResponse, service.query_edges),
            "explain": (kan_pb2.ExplainRequest, kan_pb2.ExplainResponse, service.explain),
            "scores": (kan_pb2.EdgeScoresRequest, kan_pb2.EdgeScoresResponse, service.edge_scores),
            "statistics": (kan_pb2.GetStatisticsRequest, kan_pb2.GetStatisticsResponse, service.get_statistics),
            RESET: (kan_pb2.ResetStatisticsRequest, kan_pb2.ResetStatisticsResponse, service.reset_statistics),
        }
        return {
            "": ("GET", self.describe),
            "curves": ("POST", self.curves),
            **{name: ("POST", self._method(*what)) for name, what in asked.items()},
        }

    async def describe(self, asked: Asked, call: Call) -> Answer:
        """DescribeModel."""
        message = kan_pb2.DescribeModelRequest(**_model(asked))
        data = await self._service.describe_model(message.SerializeToString(), call)
        form = Told(asked)
        return await document.reading(
            len(data), lambda: form.answer(form.told(kan_pb2.DescribeModelResponse.FromString(data)))
        )

    async def curves(self, asked: Asked, call: Call) -> Answer:
        """GetCurves, its blocks in a list."""
        message = await self.message(asked, kan_pb2.GetCurvesRequest)
        blocks: list[Any] = []
        size, form = 0, Told(asked)
        async for data in self._service.get_curves(_one(message.SerializeToString()), call):
            size = self._within(size + len(data), form)
            told = functools.partial(_told, form, kan_pb2.CurveBlock, data)
            blocks.append(await document.reading(len(data), told))
        return await document.reading(size, lambda: form.answer({"blocks": blocks}))

    async def watch(self, asked: Asked, call: Call) -> AsyncGenerator[bytes]:
        """WatchStatistics, each update as JSON. The request's fields are in the query."""
        message = self._queried(asked, kan_pb2.WatchStatisticsRequest)
        updates = self._service.watch_statistics(_one(message.SerializeToString()), call)
        async for data in updates:
            yield await document.reading(len(data), functools.partial(_update, data))

    def _queried(self, asked: Asked, kind: type[Message]) -> Any:
        """Raises BadRequest."""
        known = {field.name for field in kind.DESCRIPTOR.fields} - OF_PATH
        if unknown := sorted(asked.query.keys() - known):
            name = unknown[0][:40]
            raise BadRequest(f"the query has {name!r}, which is not known; {advice(name, sorted(known))}")
        message = kind(**_model(asked))
        for name, text in asked.query.items():
            like = getattr(message, name)
            try:
                setattr(message, name, type(like)(text))
            except (ValueError, OverflowError):
                raise BadRequest(f"the query has {name}={text[:40]!r}, expected {numbers.word(like)}") from None
        return message

    def _method(
        self, kind: type[Message], answer: type[Message], method: Callable[[bytes, Call], Awaitable[bytes]]
    ) -> Method:
        async def answered(asked: Asked, call: Call) -> Answer:
            message = await self.message(asked, kind)
            data = await method(message.SerializeToString(), call)
            form = Told(asked)
            self._within(len(data), form)
            return await document.reading(len(data), lambda: form.answer(_told(form, answer, data)))

        return answered

    def _within(self, size: int, form: Told) -> int:
        if not form.packed and size > self._typed:
            raise Exhausted(
                f"the answer takes {size} bytes, as numbers in JSON the limit is {self._typed}; "
                "ask for less, with Accept: application/octet-stream, or over gRPC"
            )
        if size > self._most:
            raise Exhausted(f"the answer takes {size} bytes or more, the limit is {self._most}; ask for less")
        return size

    async def message(self, asked: Asked, kind: type[Message]) -> Any:
        """A request of this kind, its rows packed. Raises BadRequest, Exhausted, and what `Catalogue.info` does."""
        info, _ = self._catalogue.info(*_model(asked).values())
        return await document.reading(len(asked.body), functools.partial(self._message, asked, kind, info))

    def _message(self, asked: Asked, kind: type[Message], info: ModelInfo) -> Any:
        body = document.read(asked.body, self._typed) if asked.body else {}
        if not isinstance(body, dict):
            raise BadRequest(f"Unable to parse the request: expected an object, got {numbers.word(body)}")
        known = {field.name for field in kind.DESCRIPTOR.fields} - OF_PATH - HELD
        for key in body:
            if key not in known:
                raise BadRequest(f"the request has {key[:40]!r}, which is not known; {advice(key[:40], sorted(known))}")
        message = kind(**_model(asked))
        for key, (field, count) in ROWS.items():
            if key in body:
                self._rows(message, info, body.pop(key), field, count)
        _bound_lists(body)
        try:
            json_format.ParseDict(body, message)
        except json_format.ParseError as error:
            raise BadRequest(f"Unable to parse the request: {str(error)[:200]}") from None
        return message

    def _rows(self, message: Any, info: ModelInfo, given: Any, field: str, count: str) -> None:
        """Rows as a list, or by input in an object."""
        if isinstance(given, dict) and field == "rows":
            tensors = {tensor.name: tensor for tensor in info.inputs}
            if unknown := [name for name in given if name not in tensors]:
                raise BadRequest(f"rows are of {unknown[0][:40]!r}; the model has the inputs {', '.join(tensors)}")
            for name, rows in given.items():
                message.inputs.add(name=name, rows=self._packed(tensors[name], rows))
            setattr(message, count, max(map(len, given.values()), default=0))
            return
        if len(info.inputs) > 1:
            names = ", ".join(tensor.name for tensor in info.inputs)
            raise BadRequest(
                f"model '{info.name}' has the inputs {names}: {field} by name, in an object, were expected"
            )
        setattr(message, field, self._packed(info.inputs[0], given))
        setattr(message, count, len(given))

    def _packed(self, tensor: TensorInfo, rows: Any) -> bytes:
        """Raises BadRequest, Exhausted."""
        if not isinstance(rows, list) or any(not isinstance(row, list) for row in rows[:1]):
            raise BadRequest(f"rows of '{tensor.name}' are a list with a list for each row, [[1, 2], [3, 4]]")
        for at, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != tensor.shape[1]:
                size = len(row) if isinstance(row, list) else numbers.word(row)
                raise BadRequest(f"row {at} of '{tensor.name}' has {size}, expected a list of {tensor.shape[1]}")
        data = numbers.to_bytes(tensor.name, tensor.datatype, rows)
        if len(data) > self._typed:
            raise Exhausted(
                f"rows take {len(data)} bytes, in JSON the limit is {self._typed}; send fewer, or over gRPC"
            )
        return data


def _bound_lists(body: dict[str, Any]) -> None:
    """Raises BadRequest for lists that would take long to read: each value takes a microsecond or more."""
    lists = {key: value for key, value in body.items() if isinstance(value, list)}
    for key, value in lists.items():
        convert.at_most(key, value, convert.INDEX_LIMIT)
    if (values := sum(map(len, lists.values()))) > convert.INDEX_LIMIT:
        raise BadRequest(
            f"{', '.join(sorted(lists))} have {values} entries together, at most {convert.INDEX_LIMIT} are allowed"
        )


def _told(form: Told, kind: type[Message], data: bytes) -> dict[str, Any]:
    return form.told(kind.FromString(data))


def _update(data: bytes) -> bytes:
    return orjson.dumps(arrays.plain(kan_pb2.StatisticsUpdate.FromString(data)))


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _model(asked: Asked) -> dict[str, Any]:
    return {"model_name": asked.path["name"], "model_version": asked.path.get("version", "")}
