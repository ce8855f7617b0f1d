"""KanService over HTTP, with requests and responses as JSON, under /v1/kan.

A request has the fields of the RPC's message, with rows as lists of numbers. A response has the fields of the RPC's
response, with arrays as nested lists, or as bytes after the JSON (`packed`). `PACKED` has the dtype and shape of each
bytes field. The limits of a request are those of the
RPC.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from kanexport.shared.cli.suggest import advice
from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.grpc_api import infer_codec
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.kan import KanService
from kanserve.pb import kan_pb2
from kanserve.rest import json_document
from kanserve.rest.exchange import HttpRequest, HttpResponse, Method, json_response, single
from kanserve.rest.infer_json import HEADER_LENGTH
from kanserve.services.control import Catalogue
from kanserve.types import ModelInfo, TensorInfo

ROWS = {"rows": ("rows", "row_count"), "reference_rows": ("reference_rows", "reference_count")}
OF_PATH = frozenset({"model_name", "model_version"})
HELD = frozenset({"inputs", "reference_count"})  # fields that follow from lists of rows


class KanPages:
    """Routes of KanService.

    typed  bytes of rows as numbers in JSON
    most   bytes of a response
    """

    def __init__(self, service: KanService, catalogue: Catalogue, typed: int, most: int) -> None:
        self._service, self._catalogue, self._typed, self._most = service, catalogue, typed, most

    def methods(self) -> dict[str, tuple[str, Method]]:
        """Last part of the path -> verb and handler."""
        service = self._service
        return {
            "": ("GET", self._method("DescribeModel", service.describe_model, bounded=False)),
            "certificates": ("GET", self._method("GetCertificates", service.get_certificates)),
            "curves": ("POST", self.curves),
            "edges": ("POST", self._method("QueryEdges", service.query_edges)),
            "explain": ("POST", self._method("Explain", service.explain)),
            "scores": ("POST", self._method("EdgeScores", service.edge_scores)),
            "statistics": ("POST", self._method("GetStatistics", service.get_statistics)),
            "edits": ("POST", self._method("EditEdges", service.edit_edges)),
            "statistics/reset": ("POST", self._method("ResetStatistics", service.reset_statistics)),
        }

    def _method(self, name: str, method: Callable[[bytes, Call], Awaitable[bytes]], *, bounded: bool = True) -> Method:
        """The handler of the RPC with this name. `bounded`: whether its responses have a limit."""
        request_kind, response_kind = (getattr(kan_pb2, f"{name}{end}") for end in ("Request", "Response"))

        async def respond(request: HttpRequest, call: Call) -> HttpResponse:
            message, form = await self.message(request, request_kind), ResponseForm(request)
            data = await method(message.SerializeToString(), call)
            if bounded:
                self.within(len(data), packed=form.packed)
            return await json_document.reading(len(data), lambda: form.response(form.encode(response_kind, data)))

        return respond

    async def curves(self, request: HttpRequest, call: Call) -> HttpResponse:
        """GetCurves, its blocks in a list."""
        message = await self.message(request, kan_pb2.GetCurvesRequest)
        blocks: list[Any] = []
        size, form = 0, ResponseForm(request)
        async for data in self._service.get_curves(single(message.SerializeToString()), call):
            size = self.within(size + len(data), packed=form.packed)
            encode = functools.partial(form.encode, kan_pb2.CurveBlock, data)
            blocks.append(await json_document.reading(len(data), encode))
        return await json_document.reading(size, lambda: form.response({"blocks": blocks}))

    async def watch(self, request: HttpRequest, call: Call) -> AsyncGenerator[bytes]:
        """WatchStatistics, each update as JSON. The request's fields are in the query."""
        known = {field.name for field in kan_pb2.WatchStatisticsRequest.DESCRIPTOR.fields} - OF_PATH
        if unknown := sorted(request.query.keys() - known):
            name = unknown[0][:40]
            raise BadRequest(
                f"the query has the unknown parameter {name!r}",
                code="field-unknown",
                hint=advice(name, sorted(known)),
            )
        message = kan_pb2.WatchStatisticsRequest(**_model(request))
        for name, text in request.query.items():
            like = getattr(message, name)
            try:
                setattr(message, name, type(like)(text))
            except (ValueError, OverflowError):
                raise BadRequest(
                    f"the query has {name}={text[:40]!r}, expected {json_document.word(like)}",
                    code="field-value-invalid",
                    hint=f"send {json_document.word(like)}",
                ) from None

        def encode(data: bytes) -> bytes:
            return orjson.dumps(plain(kan_pb2.StatisticsUpdate.FromString(data)))

        async for data in self._service.watch_statistics(single(message.SerializeToString()), call):
            yield await json_document.reading(len(data), functools.partial(encode, data))

    def within(self, size: int, *, packed: bool = False) -> int:
        """The bytes of a response. Raises ResourceExhausted if they exceed a limit."""
        if not packed and size > self._typed:
            raise ResourceExhausted(
                f"the response takes {size} bytes, the limit of numbers in JSON is {self._typed}",
                code="json-response-too-large",
                hint="request less, or send Accept: application/octet-stream, or use gRPC",
            )
        if size > self._most:
            raise ResourceExhausted(
                f"the response takes {size} bytes or more, the limit is {self._most}",
                code="response-too-large",
                hint="request fewer rows, layers or points",
            )
        return size

    async def message(self, request: HttpRequest, kind: type[Message]) -> Any:
        """A request of this kind, with packed rows. Raises BadRequest, ResourceExhausted, and the errors of
        `Catalogue.info`."""
        info, _ = self._catalogue.info(*_model(request).values())
        return await json_document.reading(len(request.body), functools.partial(self._message, request, kind, info))

    def _message(self, request: HttpRequest, kind: type[Message], info: ModelInfo) -> Any:
        body = json_document.read(request.body, self._typed) if request.body else {}
        if not isinstance(body, dict):
            raise BadRequest(
                f"Unable to parse the request: expected an object, got {json_document.word(body)}",
                code="json-value-wrong",
                hint="send an object with the fields of the request",
            )
        known = {field.name for field in kind.DESCRIPTOR.fields} - OF_PATH - HELD
        json_document.expect_fields(body, known)
        message = kind(**_model(request))
        for key, (field, count) in ROWS.items():
            if key in body:
                self.add_rows(message, info, body.pop(key), field, count)
        lists = {key: value for key, value in body.items() if isinstance(value, list)}
        for key, value in lists.items():
            infer_codec.at_most(key, value, infer_codec.INDEX_LIMIT)
        if (values := sum(map(len, lists.values()))) > infer_codec.INDEX_LIMIT:
            raise BadRequest(
                f"{', '.join(sorted(lists))} have {values} entries together, expected at most "
                f"{infer_codec.INDEX_LIMIT}",
                code="too-many-entries",
                hint="send fewer entries in one request",
            )
        try:
            json_format.ParseDict(body, message)
        except json_format.ParseError as error:
            raise BadRequest(
                f"Unable to parse the request: {str(error)[:200]}",
                code="field-value-invalid",
                hint="send values of the types in the page 'REST API'",
            ) from None
        return message

    def add_rows(
        self, message: Any, info: ModelInfo, values: Any, field: str = "rows", count: str = "row_count"
    ) -> None:
        """Add rows to a message, from a list, or from an object with a list per input. Raises BadRequest,
        ResourceExhausted."""
        if isinstance(values, dict) and field == "rows":
            tensors = {tensor.name: tensor for tensor in info.inputs}
            if unknown := [name for name in values if name not in tensors]:
                raise BadRequest(
                    f"rows of the unknown input {unknown[0][:40]!r}",
                    code="input-unknown",
                    hint=advice(unknown[0][:40], tensors, what="inputs"),
                )
            for name, rows in values.items():
                message.inputs.add(name=name, rows=self._packed(tensors[name], rows))
            setattr(message, count, max(map(len, values.values()), default=0))
            return
        if len(info.inputs) > 1:
            names = ", ".join(tensor.name for tensor in info.inputs)
            raise BadRequest(
                f"model '{info.name}' has the inputs {names}, but {field} is one list",
                code="input-missing",
                hint=f"send {field} as an object with a list per input",
            )
        setattr(message, field, self._packed(info.inputs[0], values))
        setattr(message, count, len(values))

    def _packed(self, tensor: TensorInfo, rows: Any) -> bytes:
        """The bytes of rows. Raises BadRequest, ResourceExhausted."""
        if not isinstance(rows, list) or any(not isinstance(row, list) for row in rows[:1]):
            raise BadRequest(
                f"invalid rows of '{tensor.name}', expected a list with a list for each row",
                code="rows-not-lists",
                hint="send rows as [[1, 2], [3, 4]]",
            )
        for at, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != tensor.shape[1]:
                size = len(row) if isinstance(row, list) else json_document.word(row)
                raise BadRequest(
                    f"row {at} of '{tensor.name}' has {size}, expected a list of {tensor.shape[1]}",
                    code="rows-wrong-width",
                    hint=f"send {tensor.shape[1]} numbers per row",
                )
        data = json_document.to_bytes(tensor.name, tensor.datatype, rows)
        if len(data) > self._typed:
            raise ResourceExhausted(
                f"rows take {len(data)} bytes, the limit of numbers in JSON is {self._typed}",
                code="json-tensor-too-large",
                hint="send fewer rows, or use gRPC",
            )
        return data


def _model(request: HttpRequest) -> dict[str, Any]:
    return {"model_name": request.path["name"], "model_version": request.path.get("version", "")}


Shape = Callable[[Any], tuple[int, ...]]
F4, F8, U1, U4, U8 = "<f4", "<f8", "<u1", "<u4", "<u8"


def _flat(message: Any) -> tuple[int, ...]:
    return (-1,)


def _values(message: Any) -> tuple[int, ...]:
    return tuple(message.shape)


def _curves(message: Any) -> tuple[int, ...]:
    return len(message.sources), len(message.destinations), message.points


# Packed fields of each message: the type of their numbers, and their shape.
PACKED: Mapping[str, Mapping[str, tuple[str, Shape]]] = MappingProxyType(
    {
        "ExplainResponse": {
            "contributions": (F8, lambda m: (-1, m.nodes, len(m.outputs))),
            "base": (F8, _flat),
            "predictions": (F8, lambda m: (-1, len(m.outputs))),
            "completeness_error": (F8, lambda m: (-1, len(m.outputs))),
            "out_of_range": (U1, _flat),
        },
        "RowIntervals": {
            "bounds": (F8, lambda m: (-1, m.numbers, 2)),
            "sets": (U1, lambda m: (-1, m.numbers)),
        },
        "RowErrorBars": {"bars": (F4, lambda m: (-1, m.numbers))},
        "LayerPath": {
            **dict.fromkeys(("sources", "destinations"), (U4, lambda m: (-1, m.outputs, m.edges))),
            "values": (F8, lambda m: (-1, m.outputs, m.edges)),
            "residual": (F8, lambda m: (-1, m.outputs)),
        },
        "LayerEdges": {
            "values": (F4, _values),
            "per_row_sources": (U4, _values),
            "per_row_destinations": (U4, _values),
            "residual": (F4, lambda m: (-1, len(m.residual_destinations))),
            "nodes": (F4, lambda m: (-1, m.node_count)),
        },
        "Reduction": {"values": (F4, _values)},
        "CurveBlock": {
            "x": (F8, lambda m: (len(m.sources), m.points)),
            "phi": (F4, _curves),
            "derivative": (F4, _curves),
            "extrema_x": (F8, lambda m: (len(m.sources), len(m.destinations), 2)),
            "extrema": (F4, lambda m: (len(m.sources), len(m.destinations), 2)),
        },
        "CurvePart": {"phi": (F4, _flat)},
        "LayerScores": {
            "edges": (F4, lambda m: (m.sources, m.destinations)),
            "std": (F4, lambda m: (m.sources, m.destinations)),
            "nodes": (F4, _flat),
        },
        "NodeStatistics": {
            **dict.fromkeys(("psi", "js", "wasserstein", "psi_threshold"), (F8, _flat)),
            **dict.fromkeys(("out_of_range", "baseline_out_of_range"), (F8, _flat)),
            "nonfinite": (U8, _flat),
            "bounds": (F8, _flat),
            **dict.fromkeys(("counts", "baseline_counts"), (U8, _flat)),
            "zones": (U8, lambda m: (-1, 3)),
            **dict.fromkeys(("mean", "std", "min", "max"), (F8, _flat)),
        },
        "Layer": {"mask": (F4, lambda m: (m.sources, m.destinations)), "bias": (F8, _flat)},
        "Basis": {"knots": (F8, lambda m: (m.knot_rows, -1))},
        "NodeStep": {"scale": (F8, _flat), "bias": (F8, _flat)},
        "Scaler": {"offset": (F8, _flat), "scale": (F8, _flat)},
    }
)


Write = Callable[[np.ndarray[Any, Any]], Any]


def plain(message: Message, write: Write | None = None) -> dict[str, Any]:
    """A message for `orjson`: fields by name, without unset messages and arrays. `write` converts an array; the
    default gives nested lists."""
    write = write or fragment
    packed = PACKED.get(message.DESCRIPTOR.name, {})
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value, kind = getattr(message, field.name), field.message_type
        if field.type == field.TYPE_BYTES:
            dtype, shape = packed[field.name]
            if value:
                extents = shape(message)
                if 0 in extents:  # numpy then cannot determine the open extent
                    extents = tuple(max(extent, 0) for extent in extents)
                fields[field.name] = write(np.frombuffer(value, dtype).reshape(extents))
        elif kind is not None and kind.GetOptions().map_entry:
            fields[field.name] = {key: _value(kind.fields_by_name["value"], value[key], write) for key in value}
        elif field.is_repeated:
            fields[field.name] = [_value(field, item, write) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            fields[field.name] = _value(field, value, write)
    return fields


def _value(field: Any, value: Any, write: Write) -> Any:
    """One value of a field. An enumeration has the name of its value."""
    if field.message_type is not None:
        return plain(value, write)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if isinstance(value, float) and not math.isfinite(value):
        return orjson.Fragment(json.dumps(value))
    return value


def fragment(array: np.ndarray[Any, Any]) -> orjson.Fragment:
    """An array as nested lists."""
    return orjson.Fragment(json_document.written(array))


KIND = "application/octet-stream"
GRAIN = 8  # bytes, so that any type can be read in place
KEY = "$array"


class ResponseForm:
    """Encoder of one response in the requested form. `encode` converts each message, `response` all of them."""

    def __init__(self, request: HttpRequest) -> None:
        self.packed = KIND in request.headers.get("accept", "").lower()
        self._parts: list[bytes] = []
        self._size = 0

    def encode(self, kind: type[Message], data: bytes) -> dict[str, Any]:
        """A message as an argument for `response`, or as a part of one."""
        return plain(kind.FromString(data), self._stored if self.packed else fragment)

    def response(self, value: object) -> HttpResponse:
        """The response with a value of dicts, lists, strings and numbers."""
        if not self.packed:
            return json_response(value)
        head = orjson.dumps(value)
        head += b" " * (-len(head) % GRAIN)
        body = b"".join((head, *self._parts))
        return HttpResponse(body, KIND, headers={HEADER_LENGTH: str(len(head))}, packs=False)

    def _stored(self, array: np.ndarray[Any, Any]) -> dict[str, Any]:
        data, at = array.tobytes(), self._size
        self._parts.append(data + bytes(-len(data) % GRAIN))
        self._size += len(self._parts[-1])
        return {KEY: [array.dtype.newbyteorder("<").str, at, *array.shape]}
