"""The table of routes as one ASGI application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kanserve.observe.metrics import UNKNOWN, Metrics
from kanserve.rpc.call import Call
from kanserve.rpc.guard import Guard
from kanserve.web.events import Events
from kanserve.web.exchange import Answer, Asked, Bounds, Exchange, Method
from kanserve.web.kan import KanPages
from kanserve.web.oip import Oip, unsupported
from kanserve.web.probes import Probes
from kanserve.web.refusal import Refused
from kanserve.web.ui import Page
from kanserve.web.views import OPERATIONS, OVERVIEW, Views

MODEL = "/v2/models/{name}"
VERSIONED = (MODEL, f"{MODEL}/versions/{{version}}")
OF_KAN = tuple(path.replace("/v2/", "/v1/kan/", 1) for path in VERSIONED)
REPOSITORY = "{repository}"
GRPC_PATH = re.compile(r"/(\w+\.)+\w+/\w+")
# What Triton has behind these paths -> its name. `rest` is the remaining path.
ABSENT = {
    "/v2/systemsharedmemory/{rest:path}": "system shared memory",
    "/v2/cudasharedmemory/{rest:path}": "CUDA shared memory",
    "/v2/trace/setting": "a trace setting",
    f"{MODEL}/trace/setting": "a trace setting",
    "/v2/logging": "a log setting",
    f"{MODEL}/generate": "generate",
    f"{MODEL}/generate_stream": "generate",
}


def build(
    guard: Guard, metrics: Metrics, bounds: Bounds, oip: Oip, kan: KanPages, views: Views, probes: Probes
) -> Starlette:
    """Every route behind the guard; needs nothing of the server that carries it but ASGI."""

    def exchange(verb: str, route: str, method: Method, *, probe: bool = False) -> Exchange:
        return Exchange(guard, metrics, bounds, (verb, route), method, probe=probe)

    routes = [
        Route(route, exchange(verb, route, method, probe=probe).answer, methods=[verb])
        for verb, route, method, probe in _table(oip, kan, views, probes)
    ]
    for path in OF_KAN:
        route = f"{path}/watch"
        routes.append(Route(route, Events(guard, metrics, bounds, ("GET", route), kan.watch).answer, methods=["GET"]))
    for route, name in ABSENT.items():
        routes.append(Route(route, exchange(UNKNOWN, route, unsupported(name)).answer, methods=["GET", "POST"]))
    nowhere = exchange(UNKNOWN, UNKNOWN, _refuse)

    async def elsewhere(request: Request, error: Exception) -> Response:
        refused = _no_route(request, cast(HTTPException, error))
        return await nowhere.refuse(request, refused)

    application = Starlette(routes=routes, exception_handlers={HTTPException: elsewhere})
    application.router.redirect_slashes = False
    return application


def _table(oip: Oip, kan: KanPages, views: Views, probes: Probes) -> Iterator[tuple[str, str, Method, bool]]:
    """Verb, path, method, and whether it is a probe; what is asked most comes first, since routes are tried in turn."""
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
    yield "POST", OPERATIONS, views.operations, False
    yield "GET", OVERVIEW, views.overview, False
    for path in OF_KAN:
        for name, (verb, answers) in (kan.methods() | views.methods()).items():
            yield verb, f"{path}/{name}".rstrip("/"), answers, False
    page = Page()
    yield "GET", "/", page.root, False
    yield "GET", "/ui", page.file, False
    yield "GET", "/ui/{rest:path}", page.file, False


async def _refuse(asked: Asked, call: Call) -> Answer:
    """Reached by no request that is whole."""
    raise asked.broken or Refused(HTTPStatus.NOT_FOUND, "Not Found")


def _no_route(request: Request, error: HTTPException) -> Refused:
    path = request.url.path[:200]
    if GRPC_PATH.fullmatch(path):
        return Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{path} is a gRPC method: call it over HTTP/2 by POST with content-type application/grpc",
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"Method Not Allowed: {path} takes {allowed}", {"allow": allowed})
    return Refused(
        error.status_code, f"Not Found: {path}; the Open Inference Protocol is at /v2, KanService at /v1/kan"
    )
