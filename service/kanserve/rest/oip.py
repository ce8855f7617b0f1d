"""Open Inference Protocol over HTTP, with Triton's extensions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import orjson

from kanserve.errors import BadRequest, Unsupported
from kanserve.grpc_api import model_codec
from kanserve.grpc_api.call_context import ID_HEADER, Call
from kanserve.grpc_api.inference import EXTENSIONS, InferenceService, only_repository
from kanserve.rest import infer_json, json_document
from kanserve.rest.exchange import HttpRequest, HttpResponse, json_response
from kanserve.rest.kan import plain
from kanserve.services.control import Catalogue, Control
from kanserve.version import version

INDEX_VALUES = 64  # of a request for the repository's index, which has one


class Oip:
    """Routes of the Open Inference Protocol. `typed`: bytes of one tensor as numbers in JSON."""

    def __init__(self, service: InferenceService, catalogue: Catalogue, control: Control, typed: int) -> None:
        self._service, self._catalogue, self._control, self._typed = service, catalogue, control, typed
        self._metadata = json_response({"name": "kanserve", "version": version(), "extensions": EXTENSIONS})

    async def server(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Name, version, and the extensions that are implemented."""
        return self._metadata

    async def live(self, request: HttpRequest, call: Call) -> HttpResponse:
        """200 until the process begins to exit, then 400 as in Triton."""
        return _yes(call, self._catalogue.live(), "the server is shutting down", code="server-shutting-down")

    async def ready(self, request: HttpRequest, call: Call) -> HttpResponse:
        """200 once every version is loaded, until the server begins to shut down."""
        return _yes(call, self._catalogue.ready(), "the server is not ready", code="server-not-ready")

    async def model_ready(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Whether a version is ready."""
        ready = self._catalogue.model_ready(*_model(request))
        return _yes(call, ready, "Model version not ready", code="model-not-ready")

    async def metadata(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Names, datatypes and shapes of inputs and outputs, and the display names of their numbers, if any."""
        info, versions = self._catalogue.info(*_model(request))
        document = plain(model_codec.metadata(info, versions))
        del document["parameters"]  # lists are lists here
        named = {} if info.manifest is None else model_codec.displayed(info.manifest)
        return json_response(document | ({"parameters": named} if named else {}))

    async def config(self, request: HttpRequest, call: Call) -> HttpResponse:
        """The configuration of a version in Triton's format."""
        model = self._catalogue.registry.resolve(*_model(request))
        return await asyncio.to_thread(lambda: json_response(plain(model_codec.config(model.info, model.serving))))

    async def statistics(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Counts and durations since the start, of all models or of one."""
        models = self._catalogue.statistics(*_model(request))
        return await asyncio.to_thread(lambda: json_response(plain(model_codec.statistics(models))))

    async def index(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Every version in the repository, with its state and the reason if it is not ready."""
        ready = _field(request, "ready", False)
        if not isinstance(ready, bool):
            raise BadRequest(
                "Invalid value for 'ready': expected a boolean, in an object",
                code="json-value-wrong",
                hint='send {"ready": true}, or no body',
            )
        statuses = self._catalogue.registry.index(only_ready=ready)
        return json_response(
            [
                {"name": status.name, "version": str(status.version), "state": status.state}
                | ({"reason": status.reason} if status.reason else {})
                for status in statuses
            ]
        )

    async def load(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Load a model from the repository. The server rejects this without explicit model control."""
        await self._control.load(request.path["name"], _parameters(request))
        return HttpResponse()

    async def unload(self, request: HttpRequest, call: Call) -> HttpResponse:
        """Unload a model. The server rejects this without explicit model control."""
        await self._control.unload(request.path["name"], _parameters(request))
        return HttpResponse()

    async def infer(self, http_request: HttpRequest, call: Call) -> HttpResponse:
        """Inference, from JSON or bytes."""
        if http_request.headers.get(infer_json.HEADER_LENGTH) == "0":
            request, binary = infer_json.bare(http_request, call, self._catalogue.info(*_model(http_request))[0])
        else:
            request, binary = await infer_json.request(http_request, call, self._typed)
        response = await self._service.run(request, call)
        return await infer_json.encoded(response, binary, self._typed)


def unsupported(what: str) -> Callable[[HttpRequest, Call], Awaitable[HttpResponse]]:
    """A method that rejects a feature of Triton with a sentence."""

    async def refuse(request: HttpRequest, call: Call) -> HttpResponse:
        raise Unsupported(
            f"{what} is not supported by kanserve",
            code="method-not-supported",
            hint="see the page 'Triton compatibility' for the routes that kanserve supports",
        )

    return refuse


def _yes(call: Call, state: bool, otherwise: str, *, code: str) -> HttpResponse:
    if state:
        return HttpResponse()
    body = orjson.dumps({"error": otherwise, "request_id": call.request_id, "code": code})
    return HttpResponse(body, status=HTTPStatus.BAD_REQUEST, headers={ID_HEADER: call.request_id})


def _parameters(request: HttpRequest) -> set[str]:
    """The names of the parameters of a request to load or unload a model. Raises BadRequest, Unsupported."""
    parameters = _field(request, "parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(
            "Invalid value for 'parameters': expected an object, in an object",
            code="json-value-wrong",
            hint='send {"parameters": {}}, or no body',
        )
    return set(parameters)


def _field(request: HttpRequest, name: str, default: object) -> object:
    """A field of a request about the repository; None if the body is not an object."""
    only_repository(request.path.get("repository", ""))
    body = json_document.read(request.body, INDEX_VALUES) if request.body else {}
    return body.get(name, default) if isinstance(body, dict) else None


def _model(request: HttpRequest) -> tuple[str, str]:
    return request.path.get("name", ""), request.path.get("version", "")
