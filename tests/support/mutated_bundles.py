"""Random mutations of bundles by seed: in a graph, the manifest or the file list."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from kanexport.contract import manifest as contract

EXTREMES: tuple[Any, ...] = (0, -1, 1, 2**31, 2**62, 10**400, 1e308, -1e-300, "", "x" * 300, None, True, [], {}, [[]])
GRAPHS = (contract.MODEL_FILE, "edges_l0.onnx", "edges_l1.onnx")


def mutate(good: Path, target: Path, seed: int) -> str:
    """A copy of a version in `target`, changed; what was changed."""
    rng = random.Random(seed)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(good, target)
    kind = rng.choice(("graph", "graph", "graph", "manifest", "manifest", "bytes of the manifest", "unlisted"))
    if kind == "manifest":
        _manifest(target, rng)
    elif kind == "bytes of the manifest":
        path = target / contract.FILE_NAME
        path.write_bytes(_damaged(path.read_bytes(), rng))
    else:
        path = target / rng.choice(GRAPHS)
        path.write_bytes(_damaged(path.read_bytes(), rng))
        if kind == "graph":
            _list(target)
    return kind


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, a part taken out, doubled, moved or put to another value."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(max(1, len(changed)))
        length = rng.choice((1, 1, 2, 4, 8, 32))
        part = changed[at : at + length]
        how = rng.randrange(7)
        if how == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[at : at + length] = rng.randbytes(len(part))
        elif how == 2:
            del changed[at : at + length]
        elif how == 3:
            changed[at:at] = part * rng.choice((1, 3, 100))
        elif how == 4:
            other = rng.randrange(len(changed) + 1)
            changed[other:other] = part
        elif how == 5:
            changed[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f")) * len(part)
        else:
            del changed[at:]
    return bytes(changed)


def _manifest(target: Path, rng: random.Random) -> None:
    """A value somewhere becomes an extreme one, or goes away."""
    document = json.loads((target / contract.FILE_NAME).read_bytes())
    places: list[tuple[Any, Any]] = []
    _places(document, places)
    for _ in range(rng.choice((1, 1, 2))):
        inside, key = rng.choice(places)
        if isinstance(inside, dict) and key in inside and rng.random() < 0.1:
            del inside[key]
        else:
            inside[key] = rng.choice(EXTREMES)
    (target / contract.FILE_NAME).write_text(json.dumps(document))


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)


def _list(target: Path) -> None:
    """The files as they are now, in the manifest."""
    document = json.loads((target / contract.FILE_NAME).read_bytes())
    for entry in document["files"]:
        data = (target / entry["path"]).read_bytes()
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (target / contract.FILE_NAME).write_text(json.dumps(document))
