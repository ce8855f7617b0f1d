"""Open Inference Protocol over HTTP, with Triton's extensions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from google.protobuf.message import Message

from kanserve.errors import BadRequest, Unsupported
from kanserve.grpc_api import model_codec
from kanserve.grpc_api.call_context import ID_HEADER, Call
from kanserve.grpc_api.inference import EXTENSIONS, InferenceService, only_repository
from kanserve.rest import infer_json, json_document
from kanserve.rest.exchange import Answer, HttpRequest, json_answer
from kanserve.services.control import Catalogue, Control
from kanserve.version import version

INDEX_VALUES = 64  # of a request for the repository's index, which has one


class Oip:
    """Routes of the Open Inference Protocol. `typed`: bytes of one tensor as numbers in JSON."""

    def __init__(self, service: InferenceService, catalogue: Catalogue, control: Control, typed: int) -> None:
        self._service, self._catalogue, self._control, self._typed = service, catalogue, control, typed
        self._metadata = json_answer({"name": "kanserve", "version": version(), "extensions": EXTENSIONS})

    async def server(self, request: HttpRequest, call: Call) -> Answer:
        """Name, version, and the extensions that are implemented."""
        return self._metadata

    async def live(self, request: HttpRequest, call: Call) -> Answer:
        """200 until the process begins to exit, then 400 as in Triton."""
        return _yes(call, self._catalogue.live(), "the server is shutting down", code="server-shutting-down")

    async def ready(self, request: HttpRequest, call: Call) -> Answer:
        """200 once every version is loaded, until the server begins to shut down."""
        return _yes(call, self._catalogue.ready(), "the server is not ready", code="server-not-ready")

    async def model_ready(self, request: HttpRequest, call: Call) -> Answer:
        """Whether a version is ready."""
        ready = self._catalogue.model_ready(*_model(request))
        return _yes(call, ready, "Model version not ready", code="model-not-ready")

    async def metadata(self, request: HttpRequest, call: Call) -> Answer:
        """Names, datatypes and shapes of inputs and outputs, and the display names of their numbers, if any."""
        info, versions = self._catalogue.info(*_model(request))
        document = plain(model_codec.metadata(info, versions))
        del document["parameters"]  # lists are lists here
        named = {} if info.manifest is None else model_codec.displayed(info.manifest)
        return json_answer(document | ({"parameters": named} if named else {}))

    async def config(self, request: HttpRequest, call: Call) -> Answer:
        """The configuration of a version in Triton's format."""
        model = self._catalogue.model(*_model(request))
        return await asyncio.to_thread(lambda: json_answer(plain(model_codec.config(model.info, model.serving))))

    async def statistics(self, request: HttpRequest, call: Call) -> Answer:
        """Counts and durations since the start, of all models or of one."""
        models = self._catalogue.statistics(*_model(request))
        return await asyncio.to_thread(lambda: json_answer(plain(model_codec.statistics(models))))

    async def index(self, request: HttpRequest, call: Call) -> Answer:
        """Every version in the repository, with its state and the reason if it is not ready."""
        only_repository(request.path.get("repository", ""))
        body = json_document.read(request.body, INDEX_VALUES) if request.body else {}
        ready = body.get("ready", False) if isinstance(body, dict) else None
        if not isinstance(ready, bool):
            raise BadRequest(
                "Invalid value for 'ready': expected a boolean, in an object",
                code="json-value-wrong",
                hint='send {"ready": true}, or no body',
            )
        statuses = self._catalogue.index(only_ready=ready)
        return Answer(
            orjson.dumps(
                [
                    {"name": status.name, "version": str(status.version), "state": status.state}
                    | ({"reason": status.reason} if status.reason else {})
                    for status in statuses
                ]
            )
        )

    async def load(self, request: HttpRequest, call: Call) -> Answer:
        """Load a model from the repository. The server rejects this without explicit model control."""
        await self._control.load(request.path["name"], _parameters(request))
        return Answer()

    async def unload(self, request: HttpRequest, call: Call) -> Answer:
        """Unload a model. The server rejects this without explicit model control."""
        await self._control.unload(request.path["name"], _parameters(request))
        return Answer()

    async def infer(self, http_request: HttpRequest, call: Call) -> Answer:
        """Inference, from JSON or bytes."""
        if http_request.headers.get(infer_json.HEADER_LENGTH) == "0":
            request, binary = infer_json.bare(http_request, call, self._catalogue.info(*_model(http_request))[0])
        else:
            request, binary = await infer_json.request(http_request, call, self._typed)
        response = await self._service.run(request, call)
        return await infer_json.answer(response, binary, self._typed)


def unsupported(what: str) -> Callable[[HttpRequest, Call], Awaitable[Answer]]:
    """A method that rejects a feature of Triton with a sentence."""

    async def refuse(request: HttpRequest, call: Call) -> Answer:
        raise Unsupported(
            f"{what} is not supported by kanserve",
            code="method-not-supported",
            hint="see the page 'Triton compatibility' for the routes that kanserve supports",
        )

    return refuse


def _yes(call: Call, state: bool, otherwise: str, *, code: str) -> Answer:
    if state:
        return Answer()
    body = orjson.dumps({"error": otherwise, "request_id": call.request_id, "code": code})
    return Answer(body, status=HTTPStatus.BAD_REQUEST, headers={ID_HEADER: call.request_id})


def _parameters(request: HttpRequest) -> set[str]:
    """The names of the parameters of a request to load or unload a model. Raises BadRequest, Unsupported."""
    only_repository(request.path.get("repository", ""))
    body = json_document.read(request.body, INDEX_VALUES) if request.body else {}
    parameters = body.get("parameters", {}) if isinstance(body, dict) else None
    if not isinstance(parameters, dict):
        raise BadRequest(
            "Invalid value for 'parameters': expected an object, in an object",
            code="json-value-wrong",
            hint='send {"parameters": {}}, or no body',
        )
    return set(parameters)


def _model(request: HttpRequest) -> tuple[str, str]:
    return request.path.get("name", ""), request.path.get("version", "")


def plain(message: Message) -> dict[str, Any]:
    """A message as a dict; unset messages are left out."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            fields[field.name] = {key: _value(inner, value[key]) for key in value}
        elif field.is_repeated:
            fields[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            fields[field.name] = _value(field, value)
    return fields


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
