"""The pickle inside a checkpoint is data: hostile ones are refused, and nothing runs."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport import cli
from kanexport.errors import CheckpointError, ExportError, UnsafeCheckpoint
from kanexport.formats import pickles, torchzip

SECONDS = 2.0
MEMORY = 64 * 2**20  # bytes

OS_SYSTEM = b"cos\nsystem\n"
STORAGE = b"((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"  # a mark for REDUCE's arguments, then a storage
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _entry(value: bytes) -> bytes:
    """A pickle of {"w": value}."""
    return b"\x80\x02}(" + _text("w") + value + b"u."


def _tensor(rest: bytes, storage: bytes = STORAGE) -> bytes:
    """_rebuild_tensor_v2(storage, <rest: offset, size, stride>, False, OrderedDict())."""
    return _entry(REBUILD + storage + rest + b"I00\nccollections\nOrderedDict\n)RtR")


class _Runs:
    """What a real attacker writes: pickle.dumps of this calls os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def _nested(depth: int, opcode: bytes) -> bytes:
    return b"\x80\x02}" + b"]" + opcode * depth


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles that would run `touch canary`, or try to, in every way the protocol has."""
    command = _text(f"touch {canary}")
    line = f"touch {canary}".encode()
    state = _entry(b"]")
    return {
        "global reduce": _entry(OS_SYSTEM + command + b"\x85R"),
        "posix system": _entry(b"cposix\nsystem\n" + command + b"\x85R"),
        "builtins exec": _entry(b"cbuiltins\nexec\n" + command + b"\x85R"),
        "builtins getattr": _entry(b"cbuiltins\ngetattr\n" + b"cos\npath\n" + _text("join") + b"\x86R"),
        "stack global": _entry(_text("os") + _text("system") + b"\x93" + command + b"\x85R"),
        "stack global of no text": _entry(b"]" + _text("system") + b"\x93" + command + b"\x85R"),
        "inst": _entry(b"(V" + line + b"\nios\nsystem\n"),
        "obj": _entry(b"(" + OS_SYSTEM + command + b"o"),
        "newobj": _entry(OS_SYSTEM + command + b"\x85\x81"),
        "newobj ex": _entry(OS_SYSTEM + command + b"\x85}\x92"),
        "build": _entry(b"ccollections\nOrderedDict\n)R}(" + _text("x") + OS_SYSTEM + b"ub"),
        "build of a class": _entry(b"ctorch\nfloat32\n}b"),
        "dumps 2": pickle.dumps({"w": _Runs(line.decode())}, 2),
        "dumps 5": pickle.dumps({"w": _Runs(line.decode())}, 5),
        "nested reduce": pickle.dumps({"a": [{"b": (_Runs(line.decode()),)}]}, 4),
        "before the state": OS_SYSTEM + command + b"\x85R0" + state,
        "after stop": state + OS_SYSTEM + command + b"\x85R.",
        "truncated after payload": OS_SYSTEM + command + b"\x85R",
        "in a rebuilder's arguments": _tensor(OS_SYSTEM + command + b"\x85RI2\n\x85I1\n\x85"),
        "in the hooks": _entry(REBUILD + STORAGE + b"I0\nI2\n\x85I1\n\x85I00\n" + OS_SYSTEM + command + b"\x85RtR"),
        "call of a rebuilt value": _tensor(b"I0\nI2\n\x85I1\n\x85")[:-2] + b")Ru.",
        "torch load inside": _entry(b"ctorch.serialization\nload\n" + command + b"\x85R"),
        "torch attribute": _entry(b"ctorch\nsave\n)R"),
        "dotted name": _entry(b"\x8c\x05torch\x8c\x10storage.os.system\x93" + command + b"\x85R"),
        "numpy scalar": _entry(b"cnumpy.core.multiarray\nscalar\n)R"),
        "extension": _entry(b"\x82\x01"),
        "extension 4": _entry(b"\x84\x01\x00\x00\x00"),
        "persistent text": _entry(b"Pos.system\n"),
    }


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def test_the_attacks_are_real(canary: Path) -> None:
    """Python's own unpickler does run the plain one: the canary can appear."""
    pickle.loads(attacks(canary)["dumps 2"])
    assert canary.exists()


def test_nothing_a_pickle_asks_for_is_run(canary: Path, torch_zip: Callable[..., bytes]) -> None:
    for name, data in attacks(canary).items():
        started = time.perf_counter()
        if name == "after stop":  # what follows STOP is not part of the pickle
            assert torchzip.read(torch_zip(data)) == {"w": []}
        else:
            with pytest.raises(ExportError) as caught:
                torchzip.read(torch_zip(data, {"0": bytes(16)}))
            assert len(caught.value.message) < 400, name
        assert time.perf_counter() - started < SECONDS, name
        assert not canary.exists(), name


@pytest.mark.parametrize("name", ["global reduce", "stack global", "dumps 5", "torch load inside"])
def test_a_refusal_names_what_was_asked_for_and_advises(name: str, canary: Path) -> None:
    with pytest.raises(UnsafeCheckpoint, match=r"system|torch\.serialization\.load") as caught:
        pickles.read(attacks(canary)[name])
    assert "nothing was executed" in caught.value.message
    assert "state_dict()" in caught.value.hint


MISUSE = {
    "negative offset": _tensor(b"I-1\nI2\n\x85I1\n\x85"),
    "huge offset": _tensor(b"I99999999999\nI2\n\x85I1\n\x85"),
    "offset beyond int64": _tensor(b"L" + b"9" * 40 + b"L\nI2\n\x85I1\n\x85"),
    "negative size": _tensor(b"I0\nI-2\n\x85I1\n\x85"),
    "huge size": _tensor(b"I0\nL1000000000000L\n\x85I1\n\x85"),
    "size of five thousand digits": _tensor(b"I0\n\x8b" + struct.pack("<I", 2500) + b"\x7f" * 2500 + b"\x85I1\n\x85"),
    "negative stride": _tensor(b"I0\nI2\n\x85I-1\n\x85"),
    "huge stride": _tensor(b"I0\nI2\n\x85L4611686018427387904L\n\x85"),
    "stride zero for ever": _tensor(b"I0\nL1000000000000L\n\x85I0\n\x85"),
    "more sizes than strides": _tensor(b"I0\nI2\nI2\n\x86I1\n\x85"),
    "a hundred axes": _tensor(b"I0\n(" + b"I1\n" * 100 + b"t(" + b"I1\n" * 100 + b"t"),
    "size no tuple": _tensor(b"I0\nI2\nI1\n\x85"),
    "size of text": _tensor(b"I0\nVtwo\n\x85I1\n\x85"),
    "bool offset": _tensor(b"I01\nI2\n\x85I1\n\x85"),
    "empty but endless": _tensor(b"I0\n(I0\n" + b"L281474976710000L\n" * 3 + b"t(I1\nI1\nI1\nI1\nt"),
    "storage is text": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=b"(Vnothing\n"),
    "storage length lies": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"I4\n", b"I5\n")),
    "storage length negative": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"I4\n", b"I-4\n")),
    "storage of another type": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"Float", b"Double")),
    "storage class is a dtype": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"FloatStorage", b"float32")),
    "storage missing": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"V0\n", b"V1\n")),
    "storage climbs": _tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"V0\n", b"V../../x\n")),
    "no arguments": _entry(REBUILD + b")R"),
    "parameter of nothing": _entry(b"ctorch._utils\n_rebuild_parameter\nI1\n\x85R"),
    "persistent id garbage": _entry(b"]Q"),
    "persistent id short": _entry(b"(Vstorage\nVx\ntQ"),
    "size called with a number": _entry(b"ctorch\nSize\nI5\n\x85Rctorch\nSize\n]R"),
    "ordered dict of items": _entry(b"ccollections\nOrderedDict\n]](]]eeaR"),
    "memo never stored": _entry(b"h\x07"),
    "memo of an empty stack": b"\x80\x02q\x00.",
    "empty stack": b"\x80\x02.",
    "mark as value": b"\x80\x02(.",
    "set item on a list": b"\x80\x02]Va\nI1\ns.",
    "append to a dict": b"\x80\x02}I1\na.",
    "odd items": b"\x80\x02}(Va\nu.",
    "key is a list": b"\x80\x02}]I1\ns.",
    "key of five thousand digits": b"\x80\x02}\x8b" + struct.pack("<I", 2500) + b"\x7f" * 2500 + b"I1\ns.",
    "no end": b"\x80\x02}",
    "invalid escape": b"\x80\x02}S'\\q'\nI1\ns.",
    "no pickle": b"\xff\xfe\xfd",
    "empty": b"",
    "itself": b"\x80\x02}q\x00Va\nh\x00s.",
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_an_error_that_explains(name: str, torch_zip: Callable[..., bytes]) -> None:
    with pytest.raises(CheckpointError) as caught:
        torchzip.read(torch_zip(MISUSE[name], {"0": bytes(16)}))
    assert 20 < len(caught.value.message) < 400


def test_the_machine_of_the_misuse_tests_reads_a_good_tensor(torch_zip: Callable[..., bytes]) -> None:
    data = torch_zip(_tensor(b"I1\nI2\n\x85I2\n\x85"), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torchzip.read(data)["w"].tolist() == [2.0, 4.0]


def _twice(pushed: bytes, times: int, pair: bytes) -> bytes:
    """A value that holds itself 2 ** times times: each level is the last one twice."""
    data = pushed
    for at in range(times):
        data += b"r" + struct.pack("<I", at) + b"j" + struct.pack("<I", at) + pair
    return data


def _repeated_dicts() -> bytes:
    """Nine levels of dictionaries, each with fifty keys for the next: 50 ** 8 values."""
    data = b"\x80\x02}"
    for level in range(8):
        data += b"r" + struct.pack("<I", level) + b"0}("
        data += b"".join(_text(str(key)) + b"j" + struct.pack("<I", level) for key in range(50)) + b"u"
    return data + b"."


def _repeated_tensor(times: int) -> bytes:
    """One storage of a mebibyte, named by that many keys."""
    storage = STORAGE.replace(b"I4\n", b"I262144\n")
    tensor = REBUILD + storage + b"I0\nI262144\n\x85I1\n\x85I00\nccollections\nOrderedDict\n)RtR"
    data = b"\x80\x02}(" + _text("0") + tensor + b"q\x00"
    return data + b"".join(_text(str(at)) + b"h\x00" for at in range(1, times)) + b"u."


ENDLESS = {
    "deep lists": _nested(100_000, b"]") + b"a" * 100_000 + b".",
    "deep tuple as key": b"\x80\x02})" + b"\x85" * 200_000 + b"I1\ns.",
    "doubled tuple as key": b"\x80\x02}" + _twice(b")", 60, b"\x86") + b"I1\ns.",
    "doubled tuple called": b"\x80\x02" + _twice(b")", 60, b"\x86") + b")R.",
    "doubled tuple as name": b"\x80\x02" + _twice(b")", 60, b"\x86") + b"Vx\n\x93.",
    "doubled tuple as device": b"\x80\x02ctorch\ndevice\n" + _twice(b")", 60, b"\x86") + b"\x85R.",
    "too many opcodes": b"\x80\x02" + b"N0" * 500_001 + b"}.",
    "repeated dictionaries": _repeated_dicts(),
    "repeated tensor": _repeated_tensor(5000),
    "length without bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_values_end_quickly_and_small(name: str, torch_zip: Callable[..., bytes]) -> None:
    data = torch_zip(ENDLESS[name], {"0": bytes(2**20)})
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(CheckpointError):
            torchzip.read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 4 * SECONDS  # tracemalloc alone takes a multiple
    assert peak < MEMORY


def test_a_whole_module_is_refused_with_the_advice_to_save_its_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    with pytest.raises(UnsafeCheckpoint, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        torchzip.read((tmp_path / "module.pt").read_bytes())
    assert "torch.save(model.state_dict()" in caught.value.hint


def test_every_protocol_is_read() -> None:
    value = {"a": [1, -5, 2**70, 1.5, True, None, "text", b"bytes"], "b": {"c": ((), (1,), (1, 2, 3), (1, 2, 3, 4))}}
    for protocol in range(2, 6):
        sample = value if protocol >= 3 else {**value, "a": [item for item in value["a"] if item != b"bytes"]}
        data = pickle.dumps(sample, protocol)
        assert pickles.read(data) == sample, protocol
        assert pickles.read(pickletools.optimize(data)) == sample, protocol


def test_names_in_errors_cannot_steer_a_terminal(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = canary.with_name("evil.pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", _entry(_text("os\x1b[2J") + _text("x") + b"\x93"))
    assert cli.main([str(path), "--repository", str(canary.with_name("models"))]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\\x1b[2J" in error
