"""Export in a separate process, with a memory limit.

`python -P -m kanexport.batch.worker` reads one JSON document from standard input,
{"request": the fields of a Request, "memory": bytes}, and writes one to standard
output: {"result": ...}, as `kanexport.export_request` makes it, or {"error": ...}, as
`kanexport.contract.cli.console` does.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import typing
from pathlib import Path
from typing import Any

from kanexport import export_request
from kanexport.contract.cli import console
from kanexport.errors import Crashed, ExportError, LimitExceeded
from kanexport.formats import checkpoint
from kanexport.pipeline import Request, export
from kanexport.quantization.options import QuantizationOptions

MIB = 2**20
# Measured: 1822 MiB for a file of 401, 453 for one of 33, 334 for one of 2.
PER_BYTE, BASE = 4, 350 * MIB


def encode(request: Request, memory: int) -> bytes:
    """The request as the worker process reads it."""
    return json.dumps({"request": dataclasses.asdict(request), "memory": memory}, default=str).encode()


def decode(data: bytes) -> tuple[Request, int]:
    """The other direction."""
    document = json.loads(data)
    hints = typing.get_type_hints(Request)
    fields = {name: _value(hints[name], value) for name, value in document["request"].items() if name != "names"}
    return Request(**fields), document["memory"]  # names are of one model, and none of a folder's


def main() -> int:
    """Export what standard input asks for."""
    request, memory = decode(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        answer: dict[str, Any] = {"result": export_request.document(export(request))}
    except ExportError as error:
        answer = console.document(error)
    except Exception as error:  # this process's boundary: whatever it is, the next file goes on
        answer = console.document(_unexpected(error, request.path, memory))
    print(json.dumps(answer))
    return 0


def need(path: Path) -> int:
    """About how many MiB of address space the export of a checkpoint takes, from the size of its file; 0 if
    that cannot be told."""
    size = checkpoint.size(path)
    return -(-(PER_BYTE * size + BASE) // MIB) if size else 0


def _beyond(path: Path, limit: int) -> LimitExceeded:
    """A file that takes more than `limit` MiB, with what it needs."""
    about = need(path)
    if about <= limit:  # a network that takes far more than its file
        return LimitExceeded(f"the export takes more than {limit} MiB of memory", hint="allow more with --memory-limit")
    return LimitExceeded(
        f"the export takes more than {limit} MiB of memory; a file of {checkpoint.size(path) / MIB:.0f} MiB needs "
        f"about {about}",
        hint=f"allow more with --memory-limit {about}",
    )


def _unexpected(error: Exception, path: Path, memory: int) -> ExportError:
    """A failed allocation, in Python or in onnxruntime, or a fault of the exporter."""
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return _beyond(path, memory // MIB)
    return Crashed(f"the exporter failed with {type(error).__name__}: {str(error)[:200]}", hint=Crashed.ADVICE)


def _value(hint: Any, value: Any) -> Any:
    """A JSON value as the type of a field: paths and tuples have no JSON type of their own."""
    paths = value is not None and Path in (hint, *typing.get_args(hint))
    if hint is QuantizationOptions:
        return QuantizationOptions(**value)
    if isinstance(value, list):
        return tuple(map(Path, value) if paths else value)
    return Path(value) if paths else value


if __name__ == "__main__":
    raise SystemExit(main())
