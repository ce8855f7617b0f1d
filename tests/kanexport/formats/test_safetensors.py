"""safetensors files: equal to the safetensors library bit for bit, also bfloat16, and strictly checked."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kanexport.errors import CheckpointError
from kanexport.formats import checkpoint, torch_archive
from kanexport.formats import safetensors as our_format
from kanexport.pipeline import Request, export
from tests.support.tiers import spread

NUMPY = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def encode(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": offsets}


def test_every_numpy_type_reads_as_the_library_reads_it() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"{code}.{len(shape)}": rng.integers(0, 2, size=shape).astype(code)
        for code in NUMPY
        for shape in ((), (3,), (2, 0, 4), (2, 3, 5))
    }
    data = safetensors.numpy.save(tensors, metadata={"format": "pt"})
    actual, expected = our_format.read(data), safetensors.numpy.load(data)
    assert set(actual) == set(expected) == set(tensors)
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype, key
        assert actual[key].shape == value.shape, key
        assert actual[key].tobytes() == value.tobytes(), key
        assert actual[key].flags.c_contiguous, key
        assert torch_archive.stored_dtype(actual[key]) == value.dtype.name


def test_every_bfloat16_is_widened_exactly() -> None:
    torch = pytest.importorskip("torch")
    bits = np.arange(2**16, dtype=np.uint16)
    exact = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert torch_archive.widen(bits).tobytes() == exact.tobytes()
    data = encode({"w": entry("BF16", (2**16,), (0, 2**17))}, bits.tobytes())
    assert our_format.read(data)["w"].tobytes() == exact.tobytes()


@spread(
    "kind, suffix", [("bfloat16", "safetensors"), ("float16", "pt"), ("float16", "safetensors"), ("bfloat16", "pt")], 1
)
def test_narrow_weights_are_exported_and_remembered(kind: str, suffix: str, golden: Any, tmp_path: Path) -> None:
    """As the trained weights rounded to 16 bits would be in float32."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    path, options = golden("efficient-kan-digits")
    state = torch.load(path, weights_only=True)
    narrow = {key: value.to(getattr(torch, kind)).contiguous() for key, value in state.items()}
    (library.save_file if suffix == "safetensors" else torch.save)(narrow, tmp_path / f"narrow.{suffix}")
    torch.save({key: value.float() for key, value in narrow.items()}, tmp_path / "wide.pt")
    results = [
        export(Request(path=tmp_path / name, repository=tmp_path / "models", options=options))
        for name in (f"narrow.{suffix}", "wide.pt")
    ]
    first, second = (result.manifest for result in results)
    assert (first.source.dtype, second.source.dtype) == (kind, "float32")
    assert any(f"the weights of the checkpoint are {kind}" in note for note in first.notes)
    assert not any("the weights of" in note for note in second.notes)
    assert first.input.datatype == "FP32"
    models = [(result.directory / "model.onnx").read_bytes() for result in results]
    assert models[0] == models[1]


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "eight bytes": struct.pack("<Q", 0),
    "no header": struct.pack("<Q", 0) + b"{",
    "header beyond the file": encode({"w": entry()}, bytes(8), length=10**6),
    "endless header": encode(b"{", length=2**63),
    "header is a list": encode(b"[]"),
    "not valid JSON": encode(b"{w: 1}"),
    "no text": encode(b'{"\xff": 1}'),
    "cut off": encode({"w": entry()}, bytes(7)),
    "more bytes": encode({"w": entry()}, bytes(9)),
    "nested": encode(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nested objects": encode(b'{"w":' * 100_000 + b"1" + b"}" * 100_000),
    "same key twice": encode(b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "same field twice": encode(b'{"w":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "a million tensors": encode(b"{" + b",".join(b'"%x":{}' % at for at in range(10**6)) + b"}"),
    "large header": encode(b"{" + b" " * 17 * 2**20 + b"}"),
    "a million numbers": encode({"w": entry("F32", [1] * 10**6, [0, 4])}, bytes(4)),
    "entry is text": encode({"w": "F32"}),
    "field missing": encode({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "field too many": encode({"w": entry() | {"x": 1}}, bytes(8)),
    "type unknown": encode({"w": entry("F7")}, bytes(8)),
    "type fp8": encode({"w": entry("F8_E4M3", (8,))}, bytes(8)),
    "type a list": encode({"w": entry(["F32"])}, bytes(8)),
    "shape text": encode({"w": entry("F32", "2")}, bytes(8)),
    "shape null": encode({"w": entry("F32", None)}, bytes(8)),
    "shape negative": encode({"w": entry("F32", (-2,))}, bytes(8)),
    "shape fraction": encode({"w": entry("F32", (2.0,))}, bytes(8)),
    "shape true": encode({"w": entry("F32", (True, 2))}, bytes(8)),
    "shape huge": encode({"w": entry("F32", (2**62, 2**62))}, bytes(8)),
    "shape of digits": encode(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', bytes(4)),
    "empty but endless": encode({"w": entry("F32", (0, 2**40, 2**40), (0, 0))}),
    "seventeen axes": encode({"w": entry("F32", (1,) * 17, (0, 4))}, bytes(4)),
    "offsets turned": encode({"w": entry(offsets=(8, 0))}, bytes(8)),
    "offsets short": encode({"w": entry(offsets=(0, 4))}, bytes(8)),
    "offsets three": encode({"w": entry(offsets=(0, 8, 8))}, bytes(8)),
    "offsets negative": encode({"w": entry(offsets=(-8, 0))}, bytes(8)),
    "offsets beyond": encode({"w": entry(offsets=(2**40, 2**40 + 8))}, bytes(8)),
    "overlap": encode({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "twice the same bytes": encode({"a": entry(), "b": entry()}, bytes(8)),
    "hole": encode({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "hole at the front": encode({"a": entry(offsets=(8, 16))}, bytes(16)),
}


def test_hostile_headers_are_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    for name, data in HOSTILE.items():
        path.write_bytes(data)
        started = time.process_time()
        with pytest.raises(CheckpointError, match=r"evil\.safetensors") as caught:
            checkpoint.load(path)
        assert time.process_time() - started < 2.0, name
        assert len(caught.value.message) < 400 + len(str(tmp_path)), name
    # The file is valid, but its data type is not supported.
    with pytest.raises(CheckpointError, match=r"'w' has type 'F8_E4M3'") as caught:
        our_format.read(HOSTILE["type fp8"])
    assert "BF16" in caught.value.message


TYPES = st.sampled_from(["F32", "F16", "BF16", "U8", "BOOL", "F8_E5M2", "I64"])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": TYPES,
        "shape": st.lists(st.integers(-1, 4), max_size=3),
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2),
    }
)


@given(st.dictionaries(st.text("ab.", max_size=3), ENTRIES, max_size=3), st.integers(0, 60))
def test_what_the_library_refuses_is_refused(header: dict[str, Any], size: int) -> None:
    data = encode(header, bytes(size))
    try:
        actual = our_format.read(data)
    except CheckpointError:
        return
    assert set(actual) == {name for name, _ in safetensors.deserialize(data)}
