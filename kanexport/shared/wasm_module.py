"""Facts about a model in a WebAssembly module: the custom section `kanserve`, which holds a JSON document.

The exporter writes it, and `kanserve report --interactive` reads it. Format: WebAssembly Core Specification 2.0,
section 5.5 (modules). Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

from kanexport.shared import serialization
from kanexport.shared.cli.console import CodedError

HEADER = b"\0asm\1\0\0\0"
CUSTOM, SECTION = 0, "kanserve"
LARGEST = 32 * 2**20  # bytes of a module that a report embeds
FORMAT = 1


class WasmModuleError(CodedError):
    """File that is not a WebAssembly module of kanserve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """Facts about the model in a module.

    sources    sha256 of each file of the checkpoint, by name
    base       outputs at the reference row; empty if the module has no contributions
    reference  the row against which contributions are
    explained  the name of the reference row, or the reason for missing contributions
    tolerance  of the outputs, relative
    """

    name: str
    version: int
    inputs: int
    outputs: int
    sources: dict[str, str]
    base: tuple[float, ...]
    reference: tuple[float, ...]
    explained: str
    tolerance: float


def _invalid(message: str) -> WasmModuleError:
    return WasmModuleError(
        message, code="wasm-module-invalid", hint="write the module with `kanserve export FILE --c DIR --wasm`"
    )


def with_facts(module: bytes, facts: ModuleFacts) -> bytes:
    """The module with the section at its end."""
    name = SECTION.encode()
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(facts)}, allow_nan=False).encode()
    body = _number(len(name)) + name + text
    return module + bytes([CUSTOM]) + _number(len(body)) + body


def facts(module: bytes) -> ModuleFacts:
    """The facts of a module. Raises WasmModuleError."""
    if not module.startswith(HEADER) or len(module) > LARGEST:
        raise _invalid(f"the file of {len(module)} bytes is not a WebAssembly module of at most {LARGEST} bytes")
    name = bytes([len(SECTION)]) + SECTION.encode()
    bodies = (body for kind, body in _sections(module) if kind == CUSTOM)
    document = next((body for body in bodies if body.startswith(name)), None)
    if document is None:
        raise _invalid(f"the WebAssembly module has no section named {SECTION!r}")
    try:
        facts = json.loads(document[1 + len(SECTION) :])
        if facts.pop("format") != FORMAT:
            raise ValueError("another format")  # noqa: TRY301 - handled below
        return serialization.build(ModuleFacts, facts, SECTION)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _invalid(f"the section {SECTION!r} of the WebAssembly module is not valid") from error


def _sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    at = len(HEADER)
    while at < len(module):
        kind = module[at]
        size, at = _parsed(module, at + 1)
        if at + size > len(module):
            raise _invalid("the WebAssembly module ends inside a section")
        yield kind, module[at : at + size]
        at += size


def _number(value: int) -> bytes:
    """An unsigned number in LEB128."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _parsed(data: bytes, at: int) -> tuple[int, int]:
    """A number in LEB128 of at most 5 bytes, and the position after it."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _invalid("the WebAssembly module has a section without a valid size")
