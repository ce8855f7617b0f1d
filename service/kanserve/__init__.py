"""Python package of kanserve: the client library, the command line and the server.

    from kanserve import Client

    with Client("127.0.0.1:8001") as client:
        result = client.infer("digits", rows)
        why = client.explain("digits", rows)

`AsyncClient` has the same methods, to be awaited. Both, and their errors (drawn in
`kanserve.client.errors`), are imported at their first use, so that `kanserve --help` stays quick.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanserve.client.aio import AsyncClient
    from kanserve.client.errors import (
        ClientError,
        DeadlineExceeded,
        InvalidInput,
        NotAllowed,
        NotFound,
        NotSupported,
        RateLimited,
        RequestRejected,
        ServerFailed,
        TooLarge,
        TransientError,
        Unavailable,
        Unreachable,
    )
    from kanserve.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "InvalidInput",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "RateLimited",
    "RequestRejected",
    "ServerFailed",
    "TooLarge",
    "TransientError",
    "Unavailable",
    "Unreachable",
]

RENAMED = {"Refused": "RequestRejected", "NoAnswer": "TransientError"}  # old names of error classes


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        warnings.warn(f"kanserve.{name} is now kanserve.{RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = RENAMED[name]
    if name not in __all__:
        raise AttributeError(f"module 'kanserve' has no attribute {name!r}")
    home = {"Client": "sync", "AsyncClient": "aio"}.get(name, "errors")
    return getattr(importlib.import_module(f"kanserve.client.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
