"""KServe's protocol V1 over HTTP: rows in `instances`, and one prediction or explanation for each of them.

The work, the limits and the errors are those of ModelInfer and Explain. Source of the routes and bodies: KServe's V1
inference protocol, which has the row format of TensorFlow Serving.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import orjson

from kanserve.errors import BadRequest, FailedPrecondition, ResourceExhausted
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.inference import InferenceService
from kanserve.grpc_api.kan import KanService
from kanserve.pb import kan_pb2
from kanserve.rest import json_document
from kanserve.rest.exchange import HttpRequest, HttpResponse, json_response
from kanserve.rest.infer_json import DIGITS_PER_BYTE
from kanserve.rest.kan import KanPages, plain
from kanserve.services.control import Catalogue
from kanserve.types import NUMPY_DTYPES, InferRequest, InferResponse, InputTensor, ModelInfo, TensorInfo

INSTANCES = "instances"


class KServeV1:
    """Routes of KServe's protocol V1. `typed`: bytes of one tensor as numbers in JSON."""

    def __init__(
        self, service: InferenceService, kan: KanService, pages: KanPages, catalogue: Catalogue, typed: int
    ) -> None:
        self._service, self._kan, self._pages, self._catalogue, self._typed = service, kan, pages, catalogue, typed

    async def ready(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Whether the default version is ready. Raises the errors of `Registry.resolve` if it is not."""
        info, _ = self._catalogue.info(request.path["name"], "")
        return json_response({"name": info.name, "ready": True})

    async def predict(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Inference of rows by the default version."""
        call.facts["model"] = request.path["name"][:128]
        info, _ = self._catalogue.info(request.path["name"], "")
        inputs = await json_document.reading(len(request.body), functools.partial(self._inputs, request.body, info))
        message = InferRequest(model=info.name, version="", id="", inputs=inputs, deadline=call.deadline)
        response = await self._service.run(message, call)
        size = sum(len(tensor.data) for tensor in response.outputs)
        return await json_document.reading(DIGITS_PER_BYTE * size, functools.partial(self._predictions, response))

    async def explain(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Contributions of the inputs to each prediction, as Explain computes them without options."""
        info, _ = self._catalogue.info(request.path["name"], "")
        message = await json_document.reading(len(request.body), functools.partial(self._rows, request.body, info))
        data = await self._kan.explain(message.SerializeToString(), call)
        self._pages.within(len(data))
        return await json_document.reading(len(data), functools.partial(_explanations, data))

    def _inputs(self, body: bytes, info: ModelInfo) -> tuple[InputTensor, ...]:
        """The inputs with the bytes of their rows. Raises BadRequest, ResourceExhausted."""
        columns = _columns(json_document.read(body, self._typed), info)
        inputs = []
        for tensor in info.inputs:
            rows = columns[tensor.name]
            shape = _shape(tensor, rows)
            data = json_document.to_bytes(tensor.name, tensor.datatype, rows)
            self._bound(f"input '{tensor.name}'", len(data))
            inputs.append(InputTensor(tensor.name, tensor.datatype, shape, data))
        return tuple(inputs)

    def _rows(self, body: bytes, info: ModelInfo) -> Any:
        """The message of Explain. Raises BadRequest, ResourceExhausted."""
        columns = _columns(json_document.read(body, self._typed), info)
        for tensor in info.inputs:
            _shape(tensor, columns[tensor.name])
        message = kan_pb2.ExplainRequest(model_name=info.name)
        self._pages.add_rows(message, info, columns if len(info.inputs) > 1 else columns[info.inputs[0].name])
        return message

    def _predictions(self, response: InferResponse) -> HttpResponse:
        """One value for each row: that of the only output, or an object with the outputs by name."""
        for tensor in response.outputs:
            self._bound(f"output '{tensor.name}'", len(tensor.data))
        arrays = {}
        for tensor in response.outputs:
            if NUMPY_DTYPES[tensor.datatype].kind not in "buif" or tensor.datatype in json_document.RAW_ONLY:
                raise FailedPrecondition(
                    f"output '{tensor.name}' is {tensor.datatype}, expected a datatype with numbers in JSON",
                    code="datatype-not-in-v1",
                    hint="use /v2/models/NAME/infer with binary data",
                )
            arrays[tensor.name] = np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype]).reshape(tensor.shape)
        if len(arrays) == 1:
            (array,) = arrays.values()
            return json_response({"predictions": orjson.Fragment(json_document.written(array))})
        rows = zip(*(map(_row, itertools.repeat(array), range(len(array))) for array in arrays.values()), strict=True)
        return json_response({"predictions": [dict(zip(arrays, row, strict=True)) for row in rows]})

    def _bound(self, what: str, size: int) -> None:
        if size > self._typed:
            raise ResourceExhausted(
                f"{what} takes {size} bytes, the limit of numbers in JSON is {self._typed}",
                code="json-tensor-too-large",
                hint="send fewer rows, or use the binary data format of /v2",
            )


def _columns(document: Any, info: ModelInfo) -> dict[str, list[Any]]:
    """The rows of each input, by its name. Raises BadRequest."""
    if not isinstance(document, dict):
        raise BadRequest(
            f"Unable to parse the request: expected an object, got {json_document.word(document)}",
            code="json-value-wrong",
            hint='send {"instances": [...]}',
        )
    json_document.expect_fields(sorted(document), [INSTANCES])
    rows = document.get(INSTANCES)
    if not isinstance(rows, list):
        raise BadRequest(
            f"'{INSTANCES}' is {json_document.word(rows)}, expected a list of rows",
            code="rows-not-lists",
            hint='send {"instances": [[1, 2], [3, 4]]}',
        )
    if not rows:
        raise BadRequest("the request has no rows", code="rows-missing", hint="send one row or more")
    names = [tensor.name for tensor in info.inputs]
    if len(names) == 1 and not isinstance(rows[0], dict):
        return {names[0]: rows}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for at, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            keys = ", ".join(sorted(row))[:80] if isinstance(row, dict) else json_document.word(row)
            raise BadRequest(
                f"instance {at} has {keys or 'no input'}, expected an object with the inputs {', '.join(names)}",
                code="instance-inputs-wrong",
                hint="send each instance as an object with one value per input",
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _shape(tensor: TensorInfo, rows: list[Any]) -> tuple[int, ...]:
    """The shape of rows with the extents of the input. An open extent is that of the first row. Raises
    BadRequest."""
    shape, level = [len(rows)], rows
    for extent in tensor.shape[1:]:
        first = len(level[0]) if level and isinstance(level[0], list) else 0
        extent = first if extent < 0 else extent
        for at, value in enumerate(level):
            if not isinstance(value, list) or len(value) != extent:
                size = f"{len(value)} values" if isinstance(value, list) else json_document.word(value)
                raise BadRequest(
                    f"instance {at * len(rows) // len(level)} of '{tensor.name}' has {size}, expected a list of "
                    f"{extent}",
                    code="rows-wrong-width",
                    hint=f"send each instance with the shape {list(tensor.shape[1:])}",
                )
        shape.append(extent)
        level = list(itertools.chain.from_iterable(level))
    return tuple(shape)


def _row(array: np.ndarray[Any, Any], at: int) -> orjson.Fragment:
    """One row of an output as JSON."""
    return orjson.Fragment(json_document.written(array[at : at + 1])[1:-1])


def _explanations(data: bytes) -> HttpResponse:
    """One object for each row, and the facts that all rows share."""
    fields = plain(kan_pb2.ExplainResponse.FromString(data), lambda array: array)
    base = orjson.Fragment(json_document.written(fields["base"]))
    explanations = [
        {
            "base": base,
            "prediction": _row(fields["predictions"], at),
            "contributions": _row(fields["contributions"], at),
            "completeness_error": _row(fields["completeness_error"], at),
            **({"out_of_range": bool(fields["out_of_range"][at])} if "out_of_range" in fields else {}),
        }
        for at in range(len(fields["predictions"]))
    ]
    shared = ("model_name", "model_version", "method", "reference", "outputs", "notes")
    return json_response({"explanations": explanations, **{name: fields[name] for name in shared}})
