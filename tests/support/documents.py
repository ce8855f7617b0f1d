"""Documents of tests: HTML, JSON texts, files with columns of numbers, files that a program must not open."""

import html.parser
import json
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve.errors import BadRequest
from kanserve.rest import json_document, json_structure

VOID = {"meta", "rect", "polyline", "circle", "image", "br"}


class Balanced(html.parser.HTMLParser):
    """Every element that is opened is closed, in order; and where the file points to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


MANY = 10**7
WORDS = (1, 2.5, -3, "a,[b", '\\"]', "{:", "", True, None, "\\\\", "é", "\u0000", "\\")
KEYS = ("a", 'b"', "c:", "d\\", "")


@pytest.fixture(params=[7, 64])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a slice, so few that a small document has many chunks."""
    monkeypatch.setattr(json_structure, "SLICE", request.param)
    monkeypatch.setattr(json_document, "SMALL", 0)
    return int(request.param)


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 5 or kind < 0.3:
        return chance.choice(WORDS)
    if kind < 0.65:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 6))]
    return {chance.choice(KEYS) + str(at): value(chance, depth + 1) for at in range(chance.randint(0, 5))}


def texts(seed: int, count: int = 120) -> Iterator[tuple[random.Random, bytes]]:
    chance = random.Random(seed)
    for _ in range(count):
        text = json.dumps(value(chance), ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, 1]))
        yield chance, text.encode()


def read(text: bytes) -> tuple[bool, Any]:
    try:
        return True, json_document.read(text, MANY)
    except BadRequest:
        return False, None


def csv_of(path: Path, rows: np.ndarray, header: str = "") -> Path:
    with path.open("w") as file:
        np.savetxt(file, rows, fmt="%.9g", delimiter=",", header=header, comments="")
    return path


def columns(path: Path, rows: Any, names: str = "abc") -> Path:
    """The rows in the form of the suffix; ".arrows" writes Arrow's stream to a file .arrow."""
    pa = pytest.importorskip("pyarrow")
    parquet, feather = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow.feather")
    table = pa.table({name: rows[:, at] for at, name in enumerate(names)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=1000)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, compression="zstd", chunksize=1000)
    else:
        make = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    return path


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes a device")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    created = tmp_path / "place"
    created.mkdir()
    yield created
    for path in (created, *created.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
