"""Error codes and hints of failed calls: from trailers over gRPC, and from the body over HTTP."""

from __future__ import annotations

import json
from urllib.parse import unquote

import grpc

CODE, HELP = "kan-error-code", "kan-error-help"


def code(error: grpc.RpcError) -> str:
    """The error code of a failed gRPC call, or ""."""
    return dict(error.trailing_metadata() or ()).get(CODE, "")


def hint(error: grpc.RpcError) -> str:
    """The hint of a failed gRPC call, or ""."""
    return unquote(dict(error.trailing_metadata() or ()).get(HELP, ""))


def of_body(body: bytes) -> tuple[str, str]:
    """Code and hint of an HTTP response."""
    document = json.loads(body)
    return document["code"], document.get("help", "")
