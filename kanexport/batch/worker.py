"""Export in a separate process, with a memory limit.

`python -P -m kanexport.batch.worker` reads one JSON document from standard input,
{"request": the fields of a Request, "memory": bytes}, and writes one to standard
output: {"result": ...}, as `kanexport.export_request` makes it, or {"error": ...}, as
`kanexport.shared.cli.console` does.
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
from kanexport.errors import Crashed, ExportError, LimitExceeded, memory_limit_exceeded
from kanexport.formats import checkpoint
from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared.cli import console

MIB = 2**20
# Fields of a request for one model, which a folder does not have.
OF_ONE = ("names", "intervals", "certification", "error_bars")
# Measured: 1822 MiB for a file of 401, 453 for one of 33, 334 for one of 2.
PER_BYTE, BASE = 4, 350 * MIB


def encode(request: Request, memory: int) -> bytes:
    """The request in the form that the worker process reads."""
    return json.dumps({"request": dataclasses.asdict(request), "memory": memory}, default=str).encode()


def decode(data: bytes) -> tuple[Request, int]:
    """The inverse of `encode`."""
    document = json.loads(data)
    hints = typing.get_type_hints(Request)
    fields = {name: _value(hints[name], value) for name, value in document["request"].items() if name not in OF_ONE}
    return Request(**fields), document["memory"]


def main() -> int:
    """Export the checkpoint of the request on standard input."""
    request, memory = decode(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        reply: dict[str, Any] = {"result": export_request.document(export(request))}
    except Exception as error:  # this process's boundary: whatever it is, the next file goes on
        reply = console.document(_failure(error, request.path, memory))
    print(json.dumps(reply))
    return 0


def need(path: Path) -> int:
    """About how many MiB of address space the export of a checkpoint needs, from the size of its file; 0 if it is
    not known."""
    size = checkpoint.size(path)
    return -(-(PER_BYTE * size + BASE) // MIB) if size else 0


def _beyond(path: Path, limit: int) -> LimitExceeded:
    """The error for a file that needs more than `limit` MiB, with its estimated need."""
    about = need(path)
    if about <= limit:  # a network that takes far more than its file
        return memory_limit_exceeded(f"the export needs more than {limit} MiB of memory", hint="raise --memory-limit")
    return memory_limit_exceeded(
        f"the export needs more than {limit} MiB of memory; a file of {checkpoint.size(path) / MIB:.0f} MiB needs "
        f"about {about}",
        hint=f"pass --memory-limit {about}",
    )


def _failure(error: Exception, path: Path, memory: int) -> ExportError:
    """The error of an export: of a failed allocation, of a file that the exporter rejects, or of a fault of the
    exporter."""
    if isinstance(error, LimitExceeded) or console.out_of_memory(error):
        return _beyond(path, memory // MIB)
    if isinstance(error, ExportError):
        return error
    return Crashed(f"the exporter failed with {type(error).__name__}: {str(error)[:200]}")


def _value(hint: Any, value: Any) -> Any:
    """A JSON value in the type of a field: JSON has no paths and tuples."""
    paths = value is not None and Path in (hint, *typing.get_args(hint))
    if hint is QuantizationOptions:
        return QuantizationOptions(**value)
    if isinstance(value, list):
        return tuple(map(Path, value) if paths else value)
    return Path(value) if paths else value


if __name__ == "__main__":
    raise SystemExit(main())
