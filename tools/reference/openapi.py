"""File docs/reference/openapi.json: the REST API as OpenAPI 3.1, from the table of routes and the messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from kanserve.pb import kan_pb2
from kanserve.rest.application import route_table
from kanserve.rest.kan import KanPages
from kanserve.rest.ui import Views
from kanserve.version import version
from tools.reference import proto

NUMBERS: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    # Packed arrays are nested lists of numbers in JSON.
    FieldDescriptor.TYPE_BYTES: {"type": "array", "items": {}},
}
# Last part of a route of KanService -> its RPC.
RPCS = {
    "": "DescribeModel",
    "certificates": "GetCertificates",
    "edits": "EditEdges",
    "curves": "GetCurves",
    "edges": "QueryEdges",
    "explain": "Explain",
    "scores": "EdgeScores",
    "statistics": "GetStatistics",
    "statistics/reset": "ResetStatistics",
}
# Summaries of the other routes, by method and path below the model.
SUMMARIES = {
    "POST infer": "Runs inference.",
    "GET ready": "Returns 200 if the model or version is ready, otherwise 400.",
    "GET config": "Returns the configuration of a model.",
    "GET stats": "Returns Triton's statistics of the requests.",
    "GET /healthz": "Returns 200 while the process is alive.",
    "GET /readyz": "Returns 200 if the server is ready, otherwise 503.",
    "GET /metrics": "Returns the metrics in the Prometheus text format.",
    "GET /v2": "Returns name, version and extensions of the server.",
    "GET /v2/health/live": "Returns 200 while the server is alive.",
    "GET /v2/health/ready": "Returns 200 if the server is ready, otherwise 400.",
    "GET /v2/models/stats": "Returns the statistics of all models.",
    "POST index": "Returns every version in the repository with its state and reason.",
    "POST load": "Loads a model (explicit model control).",
    "POST unload": "Unloads a model (explicit model control).",
    "GET ": "Returns name, versions, inputs and outputs of a model.",
    "GET rows": "Returns recent rows of the traffic, if `sample_rows` is above 0.",
    "GET statistics/history": "Returns the drift of the traffic in each minute of the last hour, as one worker saw it.",
    "POST coverage": "Returns which nodes are in grid, in the extended grid and out of grid for the given rows.",
    "GET report": "Returns the model report as JSON, or as HTML with `Accept: text/html`.",
    "GET /v1/models/{name}": "Returns the name of a model if it is ready (KServe V1).",
    "POST :predict": "Returns one prediction per instance (KServe V1).",
    "POST :explain": "Returns the contributions of the inputs to the prediction of each instance (KServe V1).",
    "GET /v1/kan/overview": "Returns a short description of each version.",
    "POST /v1/kan/operations": "Returns rates, latencies and states of the server since a point in time.",
    "GET watch": "Streams statistics as server-sent events.",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "The fault. Triton's text if Triton has one."},
        "code": {"type": "string", "description": "Stable id of the error."},
        "help": {"type": "string", "description": "The action that solves the problem."},
        "request_id": {"type": "string", "description": "The id in the log of the server."},
    },
}
TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "examples": ["FP32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
INFER = {
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        },
    },
    "InferResponse": {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Tensor": TENSOR,
    "Error": ERROR,
}


class Anything:
    """Object whose attributes exist: a table of methods or routes reads them and calls none."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: None


def page() -> str:
    """The document as text."""
    return json.dumps(document(), indent=1) + "\n"


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for verb, path, *_ in routes():
        if not path.startswith("/ui") and path != "/":
            paths.setdefault(re.sub(r":\w+}", "}", path), {})[verb.lower()] = _operation(verb, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kanserve REST API",
            "version": version(),
            "description": "Open Inference Protocol at /v2, KanService at /v1/kan. `make reference` writes this file.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8001"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**INFER, **dict(_messages())},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def routes() -> Iterator[tuple[Any, ...]]:
    """Method and path of each route of the server, and of the event streams."""
    stub: Any = Anything()
    kan = KanPages(stub, stub, 0, 0)
    insights: Any = SimpleNamespace(kan=stub)
    views = Views(insights, kan, stub)
    yield from route_table(stub, stub, kan, views, stub)
    for path in ("/v1/kan/models/{name}", "/v1/kan/models/{name}/versions/{version}"):
        yield "GET", f"{path}/watch"


def _operation(verb: str, path: str) -> dict[str, Any]:
    last = re.sub(r"^.*?/models/{name}(?:/versions/{version})?/?", "", path) if "/{name}" in path else path
    last = last.rpartition("/")[2] if "repository" in path else last
    of_kan = path.startswith("/v1/kan/models")
    rpc = RPCS.get(last) if of_kan else None
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{verb.lower()}{path}").strip("_"),
        "summary": _comments()[rpc] if rpc else SUMMARIES.get(f"{verb} {path}") or SUMMARIES[f"{verb} {last}"],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)", path)
        ],
        "responses": {
            "200": {"description": "Success."},
            "default": {"description": "Error.", "content": _json("Error")},
        },
    }
    request, response = _bodies(verb, last, rpc)
    if request:
        operation["requestBody"] = {"content": _json(request)}
    if response:
        operation["responses"]["200"]["content"] = _json(response)
    return operation


def _bodies(verb: str, last: str, rpc: str | None) -> tuple[str, str]:
    """Names of the schemas of request and response, or ""."""
    if last == "infer":
        return "InferRequest", "InferResponse"
    if rpc is None:
        return "", ""
    method = kan_pb2.DESCRIPTOR.services_by_name["KanService"].methods_by_name[rpc]
    return (method.input_type.name if verb == "POST" else ""), method.output_type.name


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _comments() -> dict[str, str]:
    return {rpc.name: rpc.comment for rpc in proto.read("kan.proto").rpcs}


def _messages() -> Iterator[tuple[str, dict[str, Any]]]:
    comments = {(b.name, f.name): f.comment for b in proto.read("kan.proto").blocks for f in b.fields}

    def schemas(messages: Any, before: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for message in messages:
            name = before + message.name
            if not message.GetOptions().map_entry:
                yield name, _schema(message, name, comments)
                yield from schemas(message.nested_types, f"{name}.")

    yield from schemas(kan_pb2.DESCRIPTOR.message_types_by_name.values(), "")


def _schema(message: Descriptor, name: str, comments: dict[tuple[str, str], str]) -> dict[str, Any]:
    properties = {}
    for field in message.fields:
        schema = _field(field)
        comment = comments.get((name, field.name), "")
        properties[field.name] = {**schema, "description": comment} if comment else schema
    return {"type": "object", "properties": properties}


def _field(field: FieldDescriptor) -> dict[str, Any]:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _field(inner.fields_by_name["value"])}
    if inner is not None:
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{_full(inner)}"}
    elif field.enum_type is not None:
        schema = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    else:
        schema = {**NUMBERS.get(field.type, {"type": "integer"})}
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _full(message: Descriptor) -> str:
    outer = message.containing_type
    return f"{_full(outer)}.{message.name}" if outer is not None else str(message.name)
