"""One export in a process of its own, with a bound on its memory.

`python -P -m kanexport.sweep.worker` reads one JSON document from standard input,
{"request": the fields of a Request, "memory": bytes}, and writes one to standard
output: {"result": ...}, as `kanexport.report` makes it, or {"error": ...}, as
`kanexport.shared.voice` does.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import typing
from pathlib import Path
from typing import Any

from kanexport import report
from kanexport.errors import Crashed, ExportError, LimitExceeded
from kanexport.pipeline import Request, export
from kanexport.shared import voice


def encode(request: Request, memory: int) -> bytes:
    """What the process reads."""
    return json.dumps({"request": dataclasses.asdict(request), "memory": memory}, default=str).encode()


def decode(data: bytes) -> tuple[Request, int]:
    """The other direction."""
    document = json.loads(data)
    hints = typing.get_type_hints(Request)
    fields = {name: _value(hints[name], value) for name, value in document["request"].items()}
    return Request(**fields), document["memory"]


def main() -> int:
    """Export what standard input asks for."""
    request, memory = decode(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        answer: dict[str, Any] = {"result": report.document(export(request))}
    except ExportError as error:
        answer = voice.document(error)
    except Exception as error:  # this process's boundary: whatever it is, the next file goes on
        answer = voice.document(_unexpected(error, memory))
    print(json.dumps(answer))
    return 0


def _unexpected(error: Exception, memory: int) -> ExportError:
    """A failed allocation, in Python or in onnxruntime, or a fault of the exporter."""
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return LimitExceeded(
            f"the export needs more than {memory // 2**20} MiB of memory", hint="allow more with --memory-limit"
        )
    return Crashed(f"the exporter failed with {type(error).__name__}: {str(error)[:200]}", hint=Crashed.ADVICE)


def _value(hint: Any, value: Any) -> Any:
    """From JSON to the type of a field: paths and tuples have none of their own."""
    paths = value is not None and Path in (hint, *typing.get_args(hint))
    if isinstance(value, list):
        return tuple(map(Path, value) if paths else value)
    return Path(value) if paths else value


if __name__ == "__main__":
    raise SystemExit(main())
