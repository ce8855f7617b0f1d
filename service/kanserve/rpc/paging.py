"""DescribeModel in pages: a million edges have masks of megabytes, and stock clients take 4 MiB."""

from __future__ import annotations

from collections.abc import Iterator

from kanserve.errors import BadRequest, NotPossible
from kanserve.pb import kan_pb2

Response = kan_pb2.DescribeModelResponse
LEAST = 2**14  # bytes of a page
EDGES = 256  # symbolic ones that go together
NUMBER = 4  # bytes of one of a mask
TOKEN = 16  # characters of the digest in it


def page(whole: Response, size: int, token: str) -> Response:
    """A page of about `size` bytes of a description, the first without a token. Raises BadRequest for a token that is
    none, NotPossible for one of another version."""
    if size < LEAST:
        raise BadRequest(f"page_bytes is {size}, expected {LEAST} or more, or 0 for everything at once")
    pages = list(_pages(whole, size))
    at = _place(whole, token, len(pages)) if token else 0
    if at + 1 < len(pages):
        pages[at].next_page_token = f"{whole.digest[:TOKEN]}.{at + 1}"
    return pages[at]


def _place(whole: Response, token: str, count: int) -> int:
    digest, _, number = token.rpartition(".")
    if not (number.isdecimal() and len(number) <= 9 and digest):
        raise BadRequest(
            f"page_token {token[:40]!r} is none that this server gave; ask for the first page, without one"
        )
    if digest != whole.digest[:TOKEN]:
        raise NotPossible(f"model '{whole.model_name}' has changed since the first page; ask for that again")
    if not 0 < int(number) < count:
        raise BadRequest(f"page_token {token[:40]!r} is of {count} pages of another size; keep page_bytes as it was")
    return int(number)


def _pages(whole: Response, size: int) -> Iterator[Response]:
    current = Response()
    current.CopyFrom(whole)
    del current.layers[:]
    used = current.ByteSize()
    for layer in whole.layers:
        for part in _parts(layer, size):
            needed = part.ByteSize() + 2 * NUMBER
            if used + needed > size and current.layers:
                yield current
                current, used = Response(model_name=whole.model_name, model_version=whole.model_version), 0
                current.digest = whole.digest
            current.layers.append(part)
            used += needed
    yield current


def _parts(layer: kan_pb2.Layer, size: int) -> Iterator[kan_pb2.Layer]:
    """The layer, or if it is larger than a page first all but its mask and its symbolic edges, then these."""
    if layer.ByteSize() <= size:
        yield layer
        return
    first = kan_pb2.Layer()
    first.CopyFrom(layer)
    first.ClearField("mask")
    first.ClearField("symbolic")
    yield first
    row = NUMBER * layer.destinations
    step = max(1, size // (2 * max(row, 1)))
    for at in range(0, len(layer.mask) // max(row, 1), step):
        yield kan_pb2.Layer(index=layer.index, mask=layer.mask[at * row : (at + step) * row])
    for at in range(0, len(layer.symbolic), EDGES):
        yield kan_pb2.Layer(index=layer.index, symbolic=layer.symbolic[at : at + EDGES])
