"""Corpus of hostile and damaged files by name, and pickles that run code or never end."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml

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


EMPTY = b"\x80\x02}."
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e2e")


@dataclass(frozen=True)
class Hostile:
    """Files by name, the one to export, and what else the command is given."""

    files: dict[str, bytes]
    path: str
    options: tuple[str, ...] = ()
    steps: str = ""  # the file for --architecture


def corpus(canary: Path) -> dict[str, Hostile]:
    """Return the whole corpus. Each hostile pickle tries to create the file `canary`."""
    result: dict[str, Hostile] = {}
    for group, created in (
        ("pickle", _pickles(canary)),
        ("format", _formats(canary)),
        ("zip", _zips()),
        ("safetensors", _headers()),
        ("tensors", _tensors()),
        ("tensors", _larger()),
        ("config", _configs()),
        ("steps", _steps()),
    ):
        for name, hostile in created:
            assert f"{group}: {name}" not in result
            result[f"{group}: {name}"] = hostile
    return result


def write(folder: Path, found: dict[str, Hostile]) -> None:
    """Everything below a folder, and a list of it: `list.json`."""
    entries = []
    for at, (name, hostile) in enumerate(found.items()):
        (folder / str(at)).mkdir()
        for file, data in hostile.files.items():
            (folder / str(at) / file).write_bytes(data)
        steps = str(folder / str(at) / hostile.steps) if hostile.steps else ""
        entries.append(
            {"name": name, "path": str(folder / str(at) / hostile.path), "options": hostile.options, "steps": steps}
        )
    (folder / "list.json").write_text(json.dumps(entries))


def archive(pickled: bytes, storages: dict[str, bytes] | None = None, packing: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as created:
        created.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            created.writestr(f"archive/data/{key}", data)
        created.writestr("archive/version", "3\n")
    return target.getvalue()


def one(data: bytes, name: str = "model.pt") -> Hostile:
    return Hostile({name: data}, name)


def _pickles(canary: Path) -> Iterator[tuple[str, Hostile]]:
    for name, data in {**attacks(canary), **MISUSE}.items():
        yield name, one(archive(data, {"0": bytes(16)}))
    for name, data in ENDLESS.items():
        yield f"endless {name}", one(archive(data, {"0": bytes(2**20)}))
    tensor = MISUSE["negative offset"].replace(b"I-1\n", b"I0\n")[2 + 2 : -2]  # without frame: {("w": tensor)}
    twice = b"\x80\x02}(K\x00" + tensor[tensor.index(b"ctorch") :] + tensor + b"u."
    yield (
        "key 0 and key '0'",
        one(archive(twice.replace(b"X\x01\x00\x00\x00w", b"X\x01\x00\x00\x000"), {"0": bytes(16)})),
    )


class _WritesCanary:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"open({str(self.canary)!r}, 'w')",)


def _formats(canary: Path) -> Iterator[tuple[str, Hostile]]:
    payload = pickle.dumps({"w": _WritesCanary(canary)})
    for name in ("model.pkl", "model.pt", "model.joblib", "model.bin"):
        yield f"plain pickle as {name}", one(payload, name)
    for pack in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        yield f"pickle by {pack.__module__}", one(pack(payload), "model.joblib")
    yield "torch of before 1.6", one(LEGACY + payload)
    yield (
        "torch of before 0.2, a tar",
        one(_tar({"sys_info": payload, "pickle": payload, "tensors": b"", "storages": b""})),
    )
    target = io.BytesIO(archive(EMPTY))
    with zipfile.ZipFile(target, "a") as created:
        created.writestr("archive/constants.pkl", EMPTY)
        created.writestr("archive/code/__torch__.py", "import os")
    yield "TorchScript", one(target.getvalue())
    arrays = io.BytesIO()
    np.savez(arrays, w=np.ones(3))
    yield "npz", one(arrays.getvalue(), "model.npz")
    yield "npz of objects", one(_objects(canary), "model.npz")
    yield "npy", one(b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}" + payload, "model.npy")
    for name, data in {
        "error page": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "ONNX": b"\x08\x08\x12\x07pytorch" + bytes(99),
    }.items():
        yield name, one(data)


def _tar(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as created:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            created.addfile(info, io.BytesIO(data))
    return target.getvalue()


def _objects(canary: Path) -> bytes:
    target = io.BytesIO()
    np.savez(target, w=np.array([_WritesCanary(canary)], dtype=object))
    return target.getvalue()


def _zips() -> Iterator[tuple[str, Hostile]]:
    deflated = zipfile.ZIP_DEFLATED
    yield "bomb by ratio", one(archive(EMPTY, {"0": bytes(300 * 2**20)}, deflated))
    yield "bomb of many", one(archive(EMPTY, {str(at): bytes(2**20) for at in range(200)}, deflated))
    inner = archive(EMPTY, {"0": bytes(50 * 2**20)}, deflated)
    yield "zip in a zip", one(archive(inner, {str(at): inner for at in range(9)}, deflated))
    yield "too many entries", one(archive(EMPTY, {str(at): b"" for at in range(60_000)}))
    good = archive(entry(b"]"), {"0": bytes(400)})
    for name, change in {
        "cut in half": lambda data: data[: len(data) // 2],
        "directory beyond the file": lambda data: _end(data, 16, 2**31),
        "directory before the file": lambda data: _end(data, 16, 0),
        "directory too long": lambda data: _end(data, 12, 2**31),
        "more entries than there are": lambda data: _end(data, 8, 0xFFFFFFFF),
        "entry beyond the file": lambda data: _central(data, 42, 2**31),
        "entry larger than the file": lambda data: _central(data, 24, 2**32 - 2),
        "packed in an unknown way": lambda data: _central(data, 10, 99, size=2),
        "other checksum": lambda data: _central(data, 16, 1),
        "garbage in the middle": lambda data: data[:40] + bytes(99) + data[40:],
    }.items():
        yield name, one(change(good))
    for name, names in {
        "climbing": ("../data.pkl",),
        "absolute": ("/data.pkl",),
        "no folder": ("data.pkl",),
        "two roots": ("a/data.pkl", "b/data.pkl"),
        "a folder for a pickle": ("a/data.pkl/x",),
        "endless name": ("a" * 60_000 + "/data.pkl",),
    }.items():
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as created:
            for inside in names:
                created.writestr(inside, EMPTY)
        yield name, one(target.getvalue())


def _end(data: bytes, offset: int, value: int) -> bytes:
    """Change a number of the end record."""
    at = data.rindex(b"PK\x05\x06") + offset
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def _central(data: bytes, offset: int, value: int, *, size: int = 4) -> bytes:
    """Change a number of the first entry in the directory."""
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _headers() -> Iterator[tuple[str, Hostile]]:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    for name, data in {
        "length in the other byte order": struct.pack(">Q", len(header)) + header + bytes(4),
        "as many tensors as fit": _header(b"{" + b",".join(b'"%x":{}' % at for at in range(900_000)) + b"}"),
        "as many numbers as fit": _header(
            b'{"w":{"dtype":"F32","data_offsets":[0,4],"shape":[' + b"1," * 8_000_000 + b"1]}}"
        ),
        "as many brackets as fit": _header(b"[" * 16_000_000),
        "a text as long as fits": _header(b'{"' + b"x" * 16_000_000 + b'":{}}'),
        "an endless number": _header(b'{"w":' + b"9" * 10_000_000 + b"}"),
    }.items():
        yield name, one(data, "model.safetensors")


def _header(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + b"{" + raw[1:]


def layer(n: int = 2, m: int = 3, functions: int = 8, prefix: str = "") -> dict[str, np.ndarray]:
    """One good layer of efficient-kan."""
    rng = np.random.default_rng(0)
    return {
        f"{prefix}base_weight": rng.normal(size=(m, n)).astype(np.float32),
        f"{prefix}spline_weight": rng.normal(size=(m, n, functions)).astype(np.float32),
        f"{prefix}grid": np.tile(np.linspace(-2.2, 2.2, functions + 4, dtype=np.float32), (n, 1)),
    }


def _tensors() -> Iterator[tuple[str, Hostile]]:
    good = layer()
    grid = good["grid"]
    numbers = np.arange(30.0, dtype=np.float32)
    for name, changes in {
        "nothing": dict.fromkeys(good),
        "NaN": {"spline_weight": good["spline_weight"] * np.float32("nan")},
        "one infinity": {"base_weight": np.array([[1, 2], [3, np.inf], [5, 6]], dtype=np.float32)},
        "knots that fall": {"grid": grid[:, ::-1]},
        "knots that repeat": {"grid": np.repeat(grid[:, ::2], 2, axis=1)},
        "knots far apart": {"grid": grid.astype(np.float64) * 1e300},
        "NaN among the knots": {"grid": np.where(grid == grid[0, 3], np.nan, grid)},
        "no knots": {"grid": grid[:, :0]},
        "one knot": {"grid": grid[:, :1]},
        "a scalar": {"grid": np.float32(1)},
        "empty": {key: value[..., :0] for key, value in good.items()},
        "empty and endless": {"base_weight": np.zeros((2**40, 0)), "spline_weight": np.zeros((2**40, 0, 8))},
        "sources without end": {"spline_weight": np.zeros((3, 2**40, 0)), "grid": np.zeros((2**40, 0))},
        "another axis": {"base_weight": good["base_weight"][None]},
        "transposed": {"base_weight": good["base_weight"].T},
        "functions without end": layer(1, 1, 100_000),
        "degree without end": {"spline_weight": np.zeros((3, 2, 4000)), "grid": np.tile(np.arange(8000.0), (2, 1))},
        "layers without end": {k: v for at in range(9000) for k, v in layer(1, 1, 4, f"layers.{at}.").items()},
        "tensors without end": {f"x.{at}": numbers[:1] for at in range(40_000)},
        "normalisations without end": {f"x.{at}.weight": numbers[:1] for at in range(29_000)},
        "a name without end": {"x" * 100_000 + ".weight": numbers},
        "names that steer a terminal": {"\x1b[2J\r.weight": numbers},
        "names of nothing": {"": numbers, ".": numbers, "..": numbers},
        "layers that do not chain": {
            **layer(2, 3, 8, "layers.0."),
            **layer(4, 3, 8, "layers.1."),
            **dict.fromkeys(good),
        },
        "two libraries": {"cheby_coeffs": np.ones((2, 3, 4))},
    }.items():
        tensors = {key: np.ascontiguousarray(v) for key, v in {**good, **changes}.items() if v is not None}
        yield name, one(safetensors.numpy.save(tensors), "model.safetensors")
    data = safetensors.numpy.save(good)
    yield "cut", one(data[:-1], "model.safetensors")
    options = (
        "prefix=" + "x" * 10**6, "base_activation=" + "y" * 10**6, "colour=red", "=", "prefix", "prefix=.",
        "x" * 10**6,
    )  # fmt: skip
    for at, option in enumerate(options):
        yield f"option {at}", Hostile({"model.safetensors": data}, "model.safetensors", (option,))


def _larger() -> Iterator[tuple[str, Hostile]]:
    """Small files of other families that stand for a lot."""
    for name, alone in {
        "a degree of 4000": {"legendre_coeffs": np.ones((1, 1, 4001), dtype=np.float32)},
        "a grid for every edge": {
            "biases.0.weight": np.zeros((1, 2000)),
            "act_fun.0.grid": np.sort(np.random.default_rng(0).normal(size=(2000, 6)), axis=1),
            "act_fun.0.coef": np.ones((2000, 8)),
            **{f"act_fun.0.{key}": np.ones(2000) for key in ("mask", "scale_base", "scale_sp")},
        },
        "points without end": {
            "r_weight": np.ones((1, 30_000, 1), dtype=np.float32),
            "l_weight": np.ones((1, 30_000, 1), dtype=np.float32),
            "local_bias": np.ones((1, 30_000, 1), dtype=np.float32),
            "feature_offset": np.ones((1, 1), dtype=np.float32),
        },
    }.items():
        yield name, one(safetensors.numpy.save(alone), "model.safetensors")


def _pykan() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """One good layer of pykan, and its config."""
    tensors = {
        "act_fun.0.grid": np.tile(np.linspace(-2.2, 2.2, 12), (2, 1)),
        "act_fun.0.coef": np.ones((2, 1, 8)),
        **{f"act_fun.0.{name}": np.ones((2, 1)) for name in ("mask", "scale_base", "scale_sp")},
        "symbolic_fun.0.mask": np.ones((1, 2)),
        "symbolic_fun.0.affine": np.ones((1, 2, 4)),
        **{f"{part}_{kind}_0": np.ones(1) for part in ("node", "subnode") for kind in ("scale", "bias")},
    }
    config: dict[str, Any] = {"width": [[2, 0], [1, 0]], "mult_arity": 2, "base_fun_name": "silu"}
    return tensors, config | {"symbolic_enabled": True, "symbolic.funs_name.0": [["sin", "x^2"]]}


def _configs() -> Iterator[tuple[str, Hostile]]:
    tensors, config = _pykan()
    state = safetensors.numpy.save(tensors)

    def pair(text: bytes) -> Hostile:
        return Hostile({"model_state": state, "model_config.yml": text}, "model")

    for name, changes in {
        "widths of gigabytes": {"width": [[10**9, 0], [10**9, 0]]},
        "products without end": {"width": [[2, 0], [1, 10**9]]},
        "arity without end": {"width": [[2, 0], [0, 1]], "mult_arity": 10**9},
        "a name that is code": {
            "symbolic.funs_name.0": [["x']=1;import os#", "sin"]],
            "ckpt_path": "/",
            "auto_save": True,
        },
        "a name without end": {"symbolic.funs_name.0": [["x" * 1999, "sin"]]},
        "names of objects": {"symbolic.funs_name.0": [[{}, []]]},
        "a base function without end": {"base_fun_name": "__import__('os').system('id')" * 60},
        "truth for a width": {"width": True},
        "numbers beyond all": {"width": [[2, 0], [10**300, 0]]},
    }.items():
        yield name, pair(yaml.safe_dump({**config, **changes}).encode())
    yield "object", pair(b"width: !!python/object/apply:os.system ['id']")
    yield "no state", Hostile({"model_config.yml": yaml.safe_dump(config).encode()}, "model")
    yield "no config", Hostile({"model_state": state}, "model")
    yield (
        "cut state",
        Hostile({"model_state": state[:-9], "model_config.yml": yaml.safe_dump(config).encode()}, "model"),
    )


def _steps() -> Iterator[tuple[str, Hostile]]:
    data = safetensors.numpy.save(layer(prefix="kan.") | {"ln.weight": np.ones(3), "ln.bias": np.ones(3)})
    good = '[[step]]\nlayer = "kan"\n'
    for name, text in {
        "deep tables": "[" + ".".join("a" * 1 for _ in range(100_000)) + "]",
        "too many": good * 10_001,
        "a kind without end": "[[step]]\n" + "x" * 10**6 + " = 1",
        "a name without end": f'[[step]]\nlayer = "{"x" * 10**6}"',
        "a name of control": '[[step]]\nlayer = "\\u001b[2J"',
        "an unknown library": good + 'family = "numpy"',
        "an endless epsilon": good + '[[step]]\nlayernorm = "ln"\nepsilon = inf',
        "a date for epsilon": good + '[[step]]\nlayernorm = "ln"\nepsilon = 2020-01-01',
        "a scale of numbers beyond all": good + f"[[step]]\naffine = true\nscale = [{10**400}, 1, 1]\nbias = [0, 0, 0]",
        "a selection beyond": "[[step]]\nselect = true\ninputs = [0, 99999999999999999999]\n" + good,
    }.items():
        raw = text.encode()
        yield name, Hostile({"model.safetensors": data, "steps.toml": raw}, "model.safetensors", (), "steps.toml")
