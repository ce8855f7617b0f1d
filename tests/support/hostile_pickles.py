"""Pickles that run code, misuse the rebuild functions, or never end."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

OS_SYSTEM = b"cos\nsystem\n"
STORAGE = b"((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"  # a mark for REDUCE's arguments, then a storage
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def entry(value: bytes) -> bytes:
    """A pickle of {"w": value}."""
    return b"\x80\x02}(" + text("w") + value + b"u."


def tensor(rest: bytes, storage: bytes = STORAGE) -> bytes:
    """_rebuild_tensor_v2(storage, <rest: offset, size, stride>, False, OrderedDict())."""
    return entry(REBUILD + storage + rest + b"I00\nccollections\nOrderedDict\n)RtR")


class _Runs:
    """Object of a real attack: unpickling it calls os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def _nested(depth: int, opcode: bytes) -> bytes:
    return b"\x80\x02}" + b"]" + opcode * depth


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles that would run `touch canary`, or try to, in every way the protocol has."""
    command = text(f"touch {canary}")
    line = f"touch {canary}".encode()
    state = entry(b"]")
    return {
        "global reduce": entry(OS_SYSTEM + command + b"\x85R"),
        "posix system": entry(b"cposix\nsystem\n" + command + b"\x85R"),
        "builtins exec": entry(b"cbuiltins\nexec\n" + command + b"\x85R"),
        "builtins getattr": entry(b"cbuiltins\ngetattr\n" + b"cos\npath\n" + text("join") + b"\x86R"),
        "stack global": entry(text("os") + text("system") + b"\x93" + command + b"\x85R"),
        "stack global of no text": entry(b"]" + text("system") + b"\x93" + command + b"\x85R"),
        "inst": entry(b"(V" + line + b"\nios\nsystem\n"),
        "obj": entry(b"(" + OS_SYSTEM + command + b"o"),
        "newobj": entry(OS_SYSTEM + command + b"\x85\x81"),
        "newobj ex": entry(OS_SYSTEM + command + b"\x85}\x92"),
        "build": entry(b"ccollections\nOrderedDict\n)R}(" + text("x") + OS_SYSTEM + b"ub"),
        "build of a class": entry(b"ctorch\nfloat32\n}b"),
        "dumps 2": pickle.dumps({"w": _Runs(line.decode())}, 2),
        "dumps 5": pickle.dumps({"w": _Runs(line.decode())}, 5),
        "nested reduce": pickle.dumps({"a": [{"b": (_Runs(line.decode()),)}]}, 4),
        "before the state": OS_SYSTEM + command + b"\x85R0" + state,
        "after stop": state + OS_SYSTEM + command + b"\x85R.",
        "truncated after payload": OS_SYSTEM + command + b"\x85R",
        "in a rebuilder's arguments": tensor(OS_SYSTEM + command + b"\x85RI2\n\x85I1\n\x85"),
        "in the hooks": entry(REBUILD + STORAGE + b"I0\nI2\n\x85I1\n\x85I00\n" + OS_SYSTEM + command + b"\x85RtR"),
        "call of a rebuilt value": tensor(b"I0\nI2\n\x85I1\n\x85")[:-2] + b")Ru.",
        "torch load inside": entry(b"ctorch.serialization\nload\n" + command + b"\x85R"),
        "torch attribute": entry(b"ctorch\nsave\n)R"),
        "dotted name": entry(b"\x8c\x05torch\x8c\x10storage.os.system\x93" + command + b"\x85R"),
        "numpy scalar": entry(b"cnumpy.core.multiarray\nscalar\n)R"),
        "extension": entry(b"\x82\x01"),
        "extension 4": entry(b"\x84\x01\x00\x00\x00"),
        "persistent text": entry(b"Pos.system\n"),
    }


MISUSE = {
    "negative offset": tensor(b"I-1\nI2\n\x85I1\n\x85"),
    "huge offset": tensor(b"I99999999999\nI2\n\x85I1\n\x85"),
    "offset beyond int64": tensor(b"L" + b"9" * 40 + b"L\nI2\n\x85I1\n\x85"),
    "negative size": tensor(b"I0\nI-2\n\x85I1\n\x85"),
    "huge size": tensor(b"I0\nL1000000000000L\n\x85I1\n\x85"),
    "size of five thousand digits": tensor(b"I0\n\x8b" + struct.pack("<I", 2500) + b"\x7f" * 2500 + b"\x85I1\n\x85"),
    "negative stride": tensor(b"I0\nI2\n\x85I-1\n\x85"),
    "huge stride": tensor(b"I0\nI2\n\x85L4611686018427387904L\n\x85"),
    "stride zero for ever": tensor(b"I0\nL1000000000000L\n\x85I0\n\x85"),
    "more sizes than strides": tensor(b"I0\nI2\nI2\n\x86I1\n\x85"),
    "a hundred axes": tensor(b"I0\n(" + b"I1\n" * 100 + b"t(" + b"I1\n" * 100 + b"t"),
    "size no tuple": tensor(b"I0\nI2\nI1\n\x85"),
    "size of text": tensor(b"I0\nVtwo\n\x85I1\n\x85"),
    "bool offset": tensor(b"I01\nI2\n\x85I1\n\x85"),
    "empty but endless": tensor(b"I0\n(I0\n" + b"L281474976710000L\n" * 3 + b"t(I1\nI1\nI1\nI1\nt"),
    "storage is text": tensor(b"I0\nI2\n\x85I1\n\x85", storage=b"(Vnothing\n"),
    "storage length lies": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"I4\n", b"I5\n")),
    "storage length negative": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"I4\n", b"I-4\n")),
    "storage of another type": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"Float", b"Double")),
    "storage class is a dtype": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"FloatStorage", b"float32")),
    "storage missing": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"V0\n", b"V1\n")),
    "storage climbs": tensor(b"I0\nI2\n\x85I1\n\x85", storage=STORAGE.replace(b"V0\n", b"V../../x\n")),
    "no arguments": entry(REBUILD + b")R"),
    "parameter of nothing": entry(b"ctorch._utils\n_rebuild_parameter\nI1\n\x85R"),
    "persistent id garbage": entry(b"]Q"),
    "persistent id short": entry(b"(Vstorage\nVx\ntQ"),
    "size called with a number": entry(b"ctorch\nSize\nI5\n\x85Rctorch\nSize\n]R"),
    "ordered dict of items": entry(b"ccollections\nOrderedDict\n]](]]eeaR"),
    "memo never stored": entry(b"h\x07"),
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
        data += b"".join(text(str(key)) + b"j" + struct.pack("<I", level) for key in range(50)) + b"u"
    return data + b"."


def _repeated_tensor(times: int) -> bytes:
    """One storage of a mebibyte, named by that many keys."""
    storage = STORAGE.replace(b"I4\n", b"I262144\n")
    tensor = REBUILD + storage + b"I0\nI262144\n\x85I1\n\x85I00\nccollections\nOrderedDict\n)RtR"
    data = b"\x80\x02}(" + text("0") + tensor + b"q\x00"
    return data + b"".join(text(str(at)) + b"h\x00" for at in range(1, times)) + b"u."


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
