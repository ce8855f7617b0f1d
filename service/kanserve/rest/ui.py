"""The web UI (Observatory): its files from the package, and index.html for each of its addresses.

The files have no data and need no role. They request data with the token of the viewer. They contain no absolute
address: `<base>` leads back to the start of the server's paths, so that the page works behind any prefix of a proxy.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.resources
import math
import re
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson

from kanserve.errors import BadRequest, QueueFull, ServerDeadlineExceeded
from kanserve.grpc_api import kan_codec
from kanserve.grpc_api.call_context import Call
from kanserve.pb import kan_pb2
from kanserve.report.selection import Curves, Plan
from kanserve.rest import json_document, kan
from kanserve.rest.exchange import HttpRequest, HttpResponse, Method, Refused, json_response
from kanserve.rest.kan import KanPages
from kanserve.services import report, statistics
from kanserve.services.explain import Explainer
from kanserve.services.operations import Operations
from kanserve.system.compression import WINDOWS
from kanserve.types import Array, ModelInfo

FOLDER = "static/"
INDEX = "index.html"
BASE = b'<base href="./">'
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
        "img-src 'self' data: blob:",
        *(f"{what} 'none'" for what in ("form-action", "frame-ancestors")),
        "base-uri 'self'",
    )
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",  # cached and compared by its tag, so that all files are of the same server
    }
)
LEVEL = 9  # files are packed once
NAMES_A_FILE = re.compile(r"[^/]+\.[a-z]+")  # the last part of a path


@dataclass(frozen=True, slots=True)
class _File:
    """Bytes, plain and packed, and their strong tags."""

    kind: str
    body: bytes
    packed: bytes
    tag: str


async def redirect(requested: HttpRequest, call: Call) -> HttpResponse:
    """Redirect to the web UI, by a relative address."""
    return HttpResponse(
        status=HTTPStatus.TEMPORARY_REDIRECT, headers={"location": "ui/", "referrer-policy": "no-referrer"}
    )


async def static_file(requested: HttpRequest, call: Call) -> HttpResponse:
    """A file, or index.html for other paths. Raises `Refused`."""
    path = requested.path.get("rest", "")
    name = path.removeprefix(FOLDER)
    if name != path and (result := _files().get(name)):
        return _response(result, requested)
    if name != path and NAMES_A_FILE.fullmatch(name.rpartition("/")[2]):
        raise Refused(
            HTTPStatus.NOT_FOUND,
            f"Not Found: the web UI has no file {name[:80]!r}",
            code="ui-file-not-found",
            hint="reload the page",
        )
    return _response(_index(path.count("/") if "rest" in requested.path else -1), requested)


def _response(file: _File, requested: HttpRequest) -> HttpResponse:
    packs = "gzip" in requested.headers.get("accept-encoding", "").lower()
    tag = f'"{file.tag}{"-z" if packs else ""}"'
    headers = {**HEADERS, "etag": tag, "vary": "accept-encoding"}
    if tag in (item.strip() for item in requested.headers.get("if-none-match", "").split(",")):
        return HttpResponse(kind=file.kind, status=HTTPStatus.NOT_MODIFIED, headers=headers)
    if packs:
        return HttpResponse(file.packed, file.kind, headers={**headers, "content-encoding": "gzip"}, packs=False)
    return HttpResponse(file.body, file.kind, headers=headers, packs=False)


@functools.lru_cache(maxsize=64)
def _index(depth: int) -> _File:
    """The index page for a path with `depth` slashes after /ui/; -1: for /ui."""
    back = "../" * (depth + 1) or "./"
    page = _files()[INDEX]
    return _file(page.kind, page.body.replace(BASE, f'<base href="{back}">'.encode()))


@functools.cache
def _files() -> Mapping[str, _File]:
    """The files of the web UI by their paths, read once."""
    root = Path(str(importlib.resources.files("kanserve") / "ui" / "static"))
    paths = [path for path in root.rglob("*") if path.suffix in KINDS]
    return {path.relative_to(root).as_posix(): _file(KINDS[path.suffix], path.read_bytes()) for path in paths}


def _file(kind: str, body: bytes) -> _File:
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS["gzip"])
    return _File(kind, body, stream.compress(body) + stream.flush(), hashlib.sha256(body).hexdigest()[:32])


OPERATIONS, OVERVIEW = "/v1/kan/operations", "/v1/kan/overview"
HISTORY = "statistics/history"  # as the last part of a path
ZONES = ("unknown", "in_grid", "extended_grid", "out_of_grid")  # names of the numbers of zones
VALUES = 64  # of a request for operations, which has one
HTML = "text/html; charset=utf-8"


class Views:
    """Routes of the views. `pages` reads rows in JSON."""

    def __init__(self, explainer: Explainer, pages: KanPages, operations: Operations) -> None:
        self._reports = Once()  # a report takes a hundred milliseconds or more of a thread
        self._kan, self._explainer, self._pages, self._operations = explainer.kan, explainer, pages, operations

    def methods(self) -> dict[str, tuple[str, Method]]:
        """The routes of a model: last part of the path -> HTTP method and handler."""
        return {
            "rows": ("GET", self.rows),
            HISTORY: ("GET", self.history),
            "coverage": ("POST", self.coverage),
            "report": ("GET", self.report),
        }

    async def rows(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """Recent rows of a version's traffic, the newest first, if the operator has enabled `sample_rows`."""
        name = requested.path["name"]
        call.facts["model"] = name[:128]
        recent = statistics.recent_rows(self._kan, name, requested.path.get("version", ""))
        call.facts |= {"version": recent.info.version, "rows": len(recent.rows)}
        reported = {
            **_identity(recent.info),
            "sample_rows": recent.most,
            "has_statistics": recent.counted,
            "note": recent.note,
        }

        def response() -> HttpResponse:
            rows = [
                {"time": item.at, "values": {key: _plain(value) for key, value in item.values.items()}}
                for item in recent.rows
            ]
            return json_response(reported | {"rows": rows})

        return await asyncio.to_thread(response)

    async def history(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """The drift of a version's traffic in each minute of the last hour, the oldest first, as this worker saw it."""
        name = requested.path["name"]
        call.facts["model"] = name[:128]
        info, entries = statistics.drift_history(self._kan, name, requested.path.get("version", ""))
        call.facts |= {"version": info.version, "entries": len(entries)}

        def layer(at: int) -> dict[str, Any]:
            ratio = np.array([entry.ratio[at] for entry in entries], np.float64).round(4)
            outside = np.array([entry.out_of_range[at] for entry in entries])
            return {"layer": at, "ratio": kan.fragment(ratio), "out_of_range": kan.fragment(outside)}

        def response() -> HttpResponse:
            layers = [layer(at) for at in (entries[0].ratio if entries else ())]
            return json_response(_identity(info) | {"times": [entry.at for entry in entries], "layers": layers})

        return await asyncio.to_thread(response)

    async def coverage(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """The position of the nodes of each layer on their grids, as `kan.coverage` of ModelInfer returns it."""
        message = await self._pages.message(requested, kan_pb2.GetStatisticsRequest)
        call.adopt(message.id)
        request = kan_codec.batch_from_pb(message, deadline=call.deadline, caller=call.caller.name)
        call.facts |= {"model": request.model[:128], "rows": request.row_count}
        info, layers = await self._explainer.covered(request)
        call.facts["version"] = info.version
        reported = {**_identity(info), "digest": info.digest, "id": request.id, "zones": ZONES}

        def response() -> HttpResponse:
            names = ("zones", "counts", "worst", "cells")
            entries = [
                {"layer": at, "definition": layer.definition}
                | {name: kan.fragment(np.asarray(getattr(layer, name))) for name in names}
                for at, layer in enumerate(layers)
            ]
            return json_response(reported | {"layers": entries})

        return await asyncio.to_thread(response)

    async def report(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """The report of a version; with `Accept: text/html` as a file. Raises the errors of `DescribeModel`,
        ServerDeadlineExceeded and QueueFull."""
        model, manifest = self._kan.describe(requested.path["name"], requested.path.get("version", ""))
        info, caller = model.info, call.caller.name
        call.facts |= {"model": info.name, "version": info.version}
        html = HTML.split(";")[0] in requested.headers.get("accept", "")

        async def make(gone: threading.Event) -> HttpResponse:
            plan, curves = await report.gather(self._kan, info, manifest, caller)
            return await asyncio.to_thread(_written, plan, curves, gone, html=html)

        return await self._reports.get((info.name, info.version, html), model, make)

    async def overview(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """A summary of all versions."""
        reported = await self._operations.overview()
        return await asyncio.to_thread(json_response, reported)

    async def operations(self, requested: HttpRequest, call: Call) -> HttpResponse:
        """The figures of the server. `since` in a request limits the readings to later ones."""
        said = json_document.read(requested.body, VALUES) if requested.body else {}
        since = said.get("since", 0) if isinstance(said, dict) and set(said) <= {"since"} else None
        if isinstance(since, bool) or not isinstance(since, int | float) or not math.isfinite(since):
            raise BadRequest(
                "invalid body, expected an object with `since`, in seconds since the epoch",
                code="json-value-wrong",
                hint='send {"since": 0}, or no body',
            )
        reported = await self._operations.report(float(since))
        return await asyncio.to_thread(json_response, reported)


def _identity(info: ModelInfo) -> dict[str, Any]:
    return {"model_name": info.name, "model_version": str(info.version)}


def _plain(value: Array) -> Any:
    if value.dtype.hasobject:
        texts = value.ravel().tolist()
        return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts]
    return kan.fragment(value)


def _written(plan: Plan, curves: Curves, gone: threading.Event, *, html: bool) -> HttpResponse:
    """Make the report, on a thread. Raises Abandoned if no request waits for it any more."""
    from kanserve.report import content, page  # takes 4 MB that a server without reports does not need

    document = content.report(plan, curves)
    if gone.is_set():
        raise Abandoned
    if not html:
        return HttpResponse(orjson.dumps(content.plain(document)))
    name = f"{plan.described.name}-{plan.described.version}.html"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return HttpResponse(page.html(document).encode(), HTML, headers=headers)


class Abandoned(Exception):
    """Raised in a thread by work that no caller waits for any more."""


# Makes a response. `Once` sets the event if no caller waits any more, because a thread cannot be cancelled.
Make = Callable[[threading.Event], Awaitable[HttpResponse]]


class _Work:
    """Work for one response. `of`: the object that it is about."""

    def __init__(self, of: object) -> None:
        self.of = weakref.ref(of)
        self.gone = threading.Event()
        self.task: asyncio.Task[HttpResponse]
        self._callers = 0

    async def response(self) -> HttpResponse:
        """Wait for the response as one more caller. If the last caller is cancelled, the work is cancelled too."""
        self._callers += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._callers -= 1
            if not self._callers:
                self.gone.set()
                self.task.cancel()

    @property
    def left(self) -> bool:
        """Whether the work was abandoned, without a response."""
        return self.gone.is_set() and not self.task.done()


@dataclass(eq=False, repr=False)
class Once:
    """Cache of responses that makes each response once, for use from one event loop."""

    seconds: float = 60.0  # time limit of one response
    together: int = 2  # number of responses that are made at the same time
    waiting: int = 16  # number of responses that are made or wait for their turn
    kept: int = 16 * 2**20  # bytes of cached responses

    def __post_init__(self) -> None:
        self._turn = asyncio.Semaphore(self.together)
        self._making: dict[Hashable, _Work] = {}
        self._kept: OrderedDict[Hashable, tuple[weakref.ref[object], HttpResponse]] = OrderedDict()
        self._size = 0

    async def get(self, key: Hashable, of: object, make: Make) -> HttpResponse:
        """The response for this key about `of`. If the key had another object before, the response is made again.
        Raises the errors of `make`, ServerDeadlineExceeded, and QueueFull if too many others are made."""
        kept = self._kept.get(key)
        if kept is not None and kept[0]() is of:
            self._kept.move_to_end(key)
            return kept[1]
        work = self._making.get(key)
        if work is None or work.left or work.of() is not of:
            if len(self._making) >= self.waiting:
                raise QueueFull
            work = self._making[key] = _Work(of)
            work.task = asyncio.ensure_future(self._make(make, work.gone))
            work.task.add_done_callback(functools.partial(self._end, key, work))
        return await work.response()

    def _end(self, key: Hashable, work: _Work, task: asyncio.Task[HttpResponse]) -> None:
        """Cache the response of ended work, and drop the least recently used ones if they do not fit `kept` bytes."""
        if self._making.get(key) is work:
            del self._making[key]
        if task.cancelled() or task.exception() is not None or (of := work.of()) is None:
            return
        before, response = self._kept.pop(key, None), task.result()
        self._size += len(response) - (0 if before is None else len(before[1]))
        self._kept[key] = weakref.ref(of), response
        while self._size > self.kept:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._size -= len(dropped)

    async def _make(self, make: Make, gone: threading.Event) -> HttpResponse:
        async with self._turn:
            try:
                async with asyncio.timeout(self.seconds):
                    return await make(gone)
            except TimeoutError:
                raise ServerDeadlineExceeded(self.seconds) from None
            finally:
                gone.set()
