"""The observatory page: its files as they are in the package, and index.html for every address of it.

The files hold no data and need no role; what they show is asked for with the viewer's own token. No address is written
down in them: `<base>` leads back to where the server's paths begin, however deep the address that was asked for lies,
so that the page works behind any prefix of a proxy.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources.abc import Traversable
from types import MappingProxyType

from kanserve.compression import WINDOWS
from kanserve.rpc.call import Call
from kanserve.web.exchange import Answer, Asked
from kanserve.web.refusal import Refused

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
        "cache-control": "no-cache",  # kept, and asked for by its tag: no page is half of an older server
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


class Page:
    """Answers for the page's addresses."""

    async def root(self, asked: Asked, call: Call) -> Answer:
        """To the page, wherever this is."""
        return Answer(
            status=HTTPStatus.TEMPORARY_REDIRECT, headers={"location": "ui/", "referrer-policy": "no-referrer"}
        )

    async def file(self, asked: Asked, call: Call) -> Answer:
        """A file, or index.html for what is none. Raises Refused."""
        path = asked.path.get("rest", "")
        name = path.removeprefix(FOLDER)
        if name != path and (found := _files().get(name)):
            return _answer(found, asked)
        if name != path and NAMES_A_FILE.fullmatch(name.rpartition("/")[2]):
            raise Refused(HTTPStatus.NOT_FOUND, f"Not Found: the page has no file {name[:80]!r}; reload it")
        return _answer(_index(path.count("/") if "rest" in asked.path else -1), asked)


def _answer(file: _File, asked: Asked) -> Answer:
    packs = "gzip" in asked.headers.get("accept-encoding", "").lower()
    tag = f'"{file.tag}{"-z" if packs else ""}"'
    headers = {**HEADERS, "etag": tag, "vary": "accept-encoding"}
    if tag in (one.strip() for one in asked.headers.get("if-none-match", "").split(",")):
        return Answer(kind=file.kind, status=HTTPStatus.NOT_MODIFIED, headers=headers)
    if packs:
        return Answer(file.packed, file.kind, headers={**headers, "content-encoding": "gzip"}, packs=False)
    return Answer(file.body, file.kind, headers=headers, packs=False)


@functools.lru_cache(maxsize=64)
def _index(depth: int) -> _File:
    """Asked for `depth` slashes behind /ui/; -1: as /ui."""
    back = "../" * (depth + 1) or "./"
    page = _files()[INDEX]
    return _file(page.kind, page.body.replace(BASE, f'<base href="{back}">'.encode()))


@functools.cache
def _files() -> Mapping[str, _File]:
    """By their paths, read once."""
    root = importlib.resources.files("kanserve") / "ui" / "static"
    return {name: _file(kind, found.read_bytes()) for name, kind, found in _walk(root, "")}


def _walk(folder: Traversable, before: str) -> Iterator[tuple[str, str, Traversable]]:
    for one in folder.iterdir():
        if one.is_dir():
            yield from _walk(one, f"{before}{one.name}/")
        elif (kind := KINDS.get(f".{one.name.rpartition('.')[2]}")) is not None:
            yield before + one.name, kind, one


def _file(kind: str, body: bytes) -> _File:
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS["gzip"])
    return _File(kind, body, stream.compress(body) + stream.flush(), hashlib.sha256(body).hexdigest()[:32])
