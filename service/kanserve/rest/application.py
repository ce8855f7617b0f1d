"""Starlette application with the table of all routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any, cast

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kanserve.config.hosts import Sites
from kanserve.config.settings import Settings
from kanserve.errors import BadRequest
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.inference import InferenceService
from kanserve.grpc_api.interceptor import Interceptor
from kanserve.grpc_api.kan import KanService
from kanserve.observability.metrics import CONTENT_TYPE, UNKNOWN, Metrics
from kanserve.observability.multiprocess import MetricsPage
from kanserve.rest.exchange import Bounds, Events, Exchange, HttpRequest, HttpResponse, Method, Refused
from kanserve.rest.kan import KanPages
from kanserve.rest.kserve_v1 import KServeV1
from kanserve.rest.oip import Oip, unsupported
from kanserve.rest.ui import OPERATIONS, OVERVIEW, Views, redirect, static_file
from kanserve.services.control import Catalogue, Control
from kanserve.services.explain import Explainer
from kanserve.services.operations import Operations

MODEL = "/v2/models/{name}"
VERSIONED = (MODEL, f"{MODEL}/versions/{{version}}")
OF_KAN = tuple(path.replace("/v2/", "/v1/kan/", 1) for path in VERSIONED)
KSERVE_V1 = "/v1/models/{name}"
REPOSITORY = "{repository}"
GRPC_PATH = re.compile(r"/(\w+\.)+\w+/\w+")
# Path of a Triton feature that kanserve does not have -> its name. `rest` is the remaining path.
ABSENT = {
    "/v2/systemsharedmemory/{rest:path}": "system shared memory",
    "/v2/cudasharedmemory/{rest:path}": "CUDA shared memory",
    "/v2/trace/setting": "a trace setting",
    f"{MODEL}/trace/setting": "a trace setting",
    "/v2/logging": "a log setting",
    f"{MODEL}/generate": "generate",
    f"{MODEL}/generate_stream": "generate",
}


def _sites(settings: Settings) -> Sites:
    # A page has the token of no user, but a browser sends a certificate with requests of each page.
    pages = settings.tokens is None or settings.certified
    names = settings.tokens is None and settings.tls_cert is None
    return Sites(settings.host, settings.allowed_hosts, pages=pages, names=names)


class _Screen:
    """Rejects requests that a page of another site may have caused, before it reads them."""

    def __init__(
        self, application: ASGIApp, sites: Sites, rejected: Callable[[Request, BadRequest], Awaitable[Response]]
    ) -> None:
        self._application, self._sites, self._rejected = application, sites, rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target: ASGIApp = self._application
        if scope["type"] == "http" and (fault := self._sites.fault(scope["method"], Headers(scope=scope))):
            target = await self._rejected(Request(scope, receive), fault)
        await target(scope, receive, send)


def route_table(
    oip: Oip, rows: KServeV1, kan: KanPages, views: Views, probes: Probes
) -> Iterator[tuple[str, str, Method, bool]]:
    """Verb, path, method, and whether it is a probe. The most frequent routes come first, because Starlette checks the
    routes in this order."""
    for path in VERSIONED:
        yield "POST", f"{path}/infer", oip.infer, False
    yield "GET", "/healthz", probes.live, True
    yield "GET", "/readyz", probes.ready, True
    yield "GET", "/metrics", probes.metrics, True
    yield "GET", "/v2", oip.server, False
    yield "GET", "/v2/health/live", oip.live, True
    yield "GET", "/v2/health/ready", oip.ready, True
    yield "GET", "/v2/models/stats", oip.statistics, False
    yield "POST", "/v2/repository/index", oip.index, False
    yield "POST", f"/v2/repository/{REPOSITORY}/index", oip.index, False
    for verb, method in (("load", oip.load), ("unload", oip.unload)):
        yield "POST", f"/v2/repository/models/{{name}}/{verb}", method, False
        yield "POST", f"/v2/repository/{REPOSITORY}/models/{{name}}/{verb}", method, False
    for path in VERSIONED:
        yield "GET", path, oip.metadata, False
        yield "GET", f"{path}/ready", oip.model_ready, True
        yield "GET", f"{path}/config", oip.config, False
        yield "GET", f"{path}/stats", oip.statistics, False
    yield "POST", f"{KSERVE_V1}:predict", rows.predict, False
    yield "POST", f"{KSERVE_V1}:explain", rows.explain, False
    yield "GET", KSERVE_V1, rows.ready, False
    yield "POST", OPERATIONS, views.operations, False
    yield "GET", OVERVIEW, views.overview, False
    for path in OF_KAN:
        for name, (verb, handler) in (kan.methods() | views.methods()).items():
            yield verb, f"{path}/{name}".rstrip("/"), handler, False
    yield "GET", "/", redirect, False
    yield "GET", "/ui", static_file, False
    yield "GET", "/ui/{rest:path}", static_file, False


async def _refuse(request: HttpRequest, call: Call) -> HttpResponse:
    """Reject a malformed request, or one that matches no route."""
    raise request.broken or Refused(
        HTTPStatus.NOT_FOUND, "Not Found", code="route-not-found", hint="see the page 'REST API' for all routes"
    )


def _no_route(request: Request, error: HTTPException) -> Refused:
    path = request.url.path[:200]
    if GRPC_PATH.fullmatch(path):
        return Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{path} is a gRPC method, expected a path of the REST API",
            code="grpc-content-type-missing",
            hint="call the method over HTTP/2 with POST and content-type application/grpc",
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"Method Not Allowed: {path} takes {allowed}",
            {"allow": allowed},
            code="http-method-not-allowed",
            hint=f"send the request with {allowed}",
        )
    return Refused(
        error.status_code,
        f"Not Found: {path}",
        code="route-not-found",
        hint="use a route of the Open Inference Protocol under /v2, or of KanService under /v1/kan",
    )


def build_application(
    settings: Settings,
    guard: Interceptor,
    metrics: Metrics,
    page: MetricsPage,
    service: InferenceService,
    kan: KanService,
    catalogue: Catalogue,
    control: Control,
    explainer: Explainer,
) -> Any:
    """Every route behind the guard, as an application for any ASGI server; `page` is what /metrics shows. Raises
    ImportError without starlette and orjson."""
    bounds = Bounds(settings.max_request_bytes, settings.request_read_timeout, settings.max_typed_contents_bytes)
    pages = KanPages(kan, catalogue, bounds.typed, settings.max_response_bytes)
    table = route_table(
        Oip(service, catalogue, control, bounds.typed),
        KServeV1(service, kan, pages, catalogue, bounds.typed),
        pages,
        Views(explainer, pages, Operations(catalogue, control, page)),
        Probes(catalogue, page),
    )

    def exchange(verb: str, route: str, method: Method, *, probe: bool = False) -> Exchange:
        return Exchange(guard, metrics, bounds, (verb, route), method, probe=probe)

    routes = [
        Route(route, exchange(verb, route, method, probe=probe).respond, methods=[verb])
        for verb, route, method, probe in table
    ]
    for path in OF_KAN:
        watch = Events(guard, metrics, bounds, ("GET", f"{path}/watch"), pages.watch)
        routes.append(Route(f"{path}/watch", watch.respond, methods=["GET"]))
    for route, name in ABSENT.items():
        routes.append(Route(route, exchange(UNKNOWN, route, unsupported(name)).respond, methods=["GET", "POST"]))
    nowhere = exchange(UNKNOWN, UNKNOWN, _refuse)

    async def elsewhere(request: Request, error: Exception) -> Response:
        return await nowhere.refuse(request, _no_route(request, cast(HTTPException, error)))

    async def rejected(request: Request, error: BadRequest) -> Response:
        refused = Refused(HTTPStatus.FORBIDDEN, str(error), code=error.code, hint=error.hint)
        return await nowhere.refuse(request, refused)

    screen = Middleware(_Screen, _sites(settings), rejected)
    application = Starlette(routes=routes, middleware=[screen], exception_handlers={HTTPException: elsewhere})
    application.router.redirect_slashes = False
    return application


TEXT = "text/plain; charset=utf-8"


class Probes:
    """Routes of the probes and of the metrics, from the state of the catalogue."""

    def __init__(self, catalogue: Catalogue, page: MetricsPage) -> None:
        self._catalogue, self._page = catalogue, page
        self._written: asyncio.Task[bytes] | None = None

    async def live(self, request: HttpRequest, call: Call) -> HttpResponse:
        """200 until the process begins to exit."""
        return _state(self._catalogue.live())

    async def ready(self, request: HttpRequest, call: Call) -> HttpResponse:
        """200 once the versions that readiness needs serve, until the server begins to shut down."""
        return _state(self._catalogue.ready())

    async def metrics(self, request: HttpRequest, call: Call) -> HttpResponse:
        """The page of the metrics port, for all workers. A thread writes it, which takes milliseconds, and much longer
        for hundreds of models. Requests that arrive meanwhile get the same page, so many of them cost no more than
        one."""
        if self._written is None or self._written.done():
            self._written = asyncio.ensure_future(asyncio.to_thread(self._page.text))
        return HttpResponse(await asyncio.shield(self._written), CONTENT_TYPE)


def _state(good: bool) -> HttpResponse:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return HttpResponse(b"ok\n" if good else b"not ready\n", TEXT, status)
