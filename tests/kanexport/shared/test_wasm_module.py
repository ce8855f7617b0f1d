"""The custom section of a WebAssembly module: written, read, and damaged."""

import json

import pytest

from kanexport.shared import wasm_module
from kanexport.shared.wasm_module import HEADER, ModuleFacts, WasmModuleError

FACTS = ModuleFacts(
    name="net", version=2, inputs=2, outputs=1, sources={"net.pt": "ab" * 32}, base=(0.5,), reference=(0.0, 1.5),
    explained="zeros", tolerance=1e-5,
)  # fmt: skip
EMPTY_TYPES = b"\x01\x01\x00"  # a section without types


def section(document: bytes) -> bytes:
    body = bytes([8]) + b"kanserve" + document
    assert len(body) < 128
    return HEADER + bytes([0, len(body)]) + body


def test_facts_are_read_back() -> None:
    module = wasm_module.with_facts(HEADER + EMPTY_TYPES, FACTS)
    assert wasm_module.facts(module) == FACTS


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (b"", "not a WebAssembly module"),
        (b"\x7fELF" + bytes(100), "not a WebAssembly module"),
        (HEADER, "no section named 'kanserve'"),
        (HEADER + EMPTY_TYPES, "no section named 'kanserve'"),
        (HEADER + b"\x00\x7f", "ends inside a section"),
        (HEADER + b"\x00" + b"\xff" * 9, "without a valid size"),
        (section(b"{}"), "is not valid"),
        (section(b"not JSON"), "is not valid"),
        (section(json.dumps({"format": 2}).encode()), "is not valid"),
    ],
)
def test_other_files_are_errors(module: bytes, message: str) -> None:
    with pytest.raises(WasmModuleError, match=message) as caught:
        wasm_module.facts(module)
    assert caught.value.code == "wasm-module-invalid"


def test_a_truncated_module_is_an_error() -> None:
    module = wasm_module.with_facts(HEADER + EMPTY_TYPES, FACTS)
    for end in range(len(HEADER) + len(EMPTY_TYPES), len(module)):
        with pytest.raises(WasmModuleError):
            wasm_module.facts(module[:end])
