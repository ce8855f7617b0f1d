"""Mutated files of users, and a program that passes each of them to the commands that read it.

`python -m tests.support.mutated_files FOLDER` prints the name of each file and reader before it begins, so that a
signal has a name, and the exit code after it. `FOLDER/model` is a model version.
"""

import contextlib
import faulthandler
import io
import json
import math
import random
import shutil
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from pyarrow import feather, parquet

from kanexport.bundle import baseline
from kanexport.errors import ExportError
from kanserve.cli import main
from kanserve.cli.options import InputError
from kanserve.tables import input_rows, row_stream
from kanserve.types import TensorInfo
from tests.support import hostile_files
from tests.support.golden_cases import ROOT
from tools.fuzz_checkpoints import scramble, scramble_inside

NUMBERS = (0, 1, -1, 7, 255, 2**15, 2**24, 2**31 - 1, -(2**31))
TORCH = ROOT / "tests" / "golden" / "checkpoints" / "flashkan-ellipj" / "model.pt"


def originals() -> dict[str, bytes]:
    """Small valid files by name."""
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    numbers = dict(zip("abc", rows.T, strict=True))
    coded = pa.table({**numbers, "b": pa.array([0.5, 1.5, 0.25] * 4).dictionary_encode()})
    words = pa.array([f"row {at}" for at in range(12)])
    table = pa.table({"id": words, "kind": words.dictionary_encode(), **numbers})
    lists = pa.table({"x": pa.array(rows.tolist(), pa.list_(pa.float32())), "id": words, "kind": words})
    return {
        "table.arrow": _written(lambda file: _ipc(pa.ipc.new_file, file, table)),
        "lists.ipc": _written(lambda file: _ipc(pa.ipc.new_stream, file, lists)),
        "coded.feather": _written(lambda file: feather.write_feather(coded, file, compression="uncompressed")),
        "packed.feather": _written(lambda file: feather.write_feather(coded, file, compression="zstd")),
        "table.parquet": _written(lambda file: parquet.write_table(table, file, row_group_size=5)),
        "coded.parquet": _written(lambda file: parquet.write_table(coded, file, row_group_size=5)),
        "table.csv": ("a,b,c,id,kind\n" + "".join(f"{a},{b},{c},x,y\n" for a, b, c in rows)).encode(),
        "rows.csv": "".join(f"{a},{b},{c}\n" for a, b, c in rows).encode(),
        "arrays.npz": _written(lambda file: np.savez_compressed(file, x=rows)),
        "arrays.npy": _written(lambda file: np.save(file, rows)),
        "rows.json": json.dumps({"rows": rows.tolist()}).encode(),
        "layer.safetensors": safetensors.numpy.save(hostile_files.layer()),
        "layer.pt": TORCH.read_bytes(),
    }


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _ipc(make: Any, file: io.BytesIO, table: pa.Table) -> None:
    with make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def mutant(rng: random.Random, data: bytes, *, torch: bool) -> bytes:
    """The data with a few edits: of any kind, of the entry of an archive, or of a number, such as an offset."""
    if rng.random() < 0.3:
        return scramble_inside(rng, data) if torch else scramble(rng, data)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(max(1, len(changed) - 4) // 4) * 4
        near = struct.unpack_from("<i", changed, at)[0] + rng.choice((-1, 1, 2, 256))
        struct.pack_into("<I", changed, at, rng.choice((*NUMBERS, near)) & 0xFFFFFFFF)
    return bytes(changed)


def _form(name: str) -> str:
    suffix = Path(name).suffix
    return {".ipc": ".arrow", ".feather": ".arrow", ".npy": ".npz"}.get(suffix, suffix)


def write(folder: Path, seed: int, count: int) -> None:
    """Every original, and `count` mutants of each format."""
    files = originals()
    forms = Counter(map(_form, files))
    for name, data in files.items():
        rng = random.Random(f"{name} {seed}")
        for at in range(1 + math.ceil(count / forms[_form(name)])):
            (folder / f"{at:03}-{name}").write_bytes(mutant(rng, data, torch=name.endswith(".pt")) if at else data)


def _score(folder: Path, path: Path) -> int:
    keep = ("--keep", "id", "kind") if "table" in path.name or "lists" in path.name else ()
    out = ("--output", str(folder / "out"), "--overwrite", "--threads", "1", *keep)
    return main.main(["score", str(folder / "model"), "--input", str(path), *out])


def _rows(_: Path, path: Path) -> int:
    """Both readers of rows that commands use for --input."""
    tensor = TensorInfo("x", "FP32", (-1, 3))
    try:
        with row_stream.opened(str(path)) as source:
            list(row_stream.rows([tensor], source).parts)
        input_rows.rows_for(tensor, input_rows.contents(str(path)))
    except InputError:
        return 2
    return 0


def _baseline(_: Path, path: Path) -> int:
    try:
        baseline.load(path)
    except ExportError:
        return 2
    return 0


def _export(folder: Path, path: Path) -> int:
    return main.main(["export", str(path), "--repository", str(folder / "models"), "--name", "m", "--force"])


READERS: dict[str, tuple[Callable[[Path, Path], int], ...]] = {  # by the stem of a name
    **dict.fromkeys(("table", "lists"), (_score,)),
    **dict.fromkeys(("coded", "packed"), (_score, _rows)),
    "rows": (_rows,),
    "arrays": (_rows, _baseline),
    "layer": (_export,),
}


def run(folder: Path) -> None:
    """Read each file by its readers, and print the outcomes."""
    faulthandler.enable()
    for path in sorted(folder.glob("[0-9]*-*.*")):
        for reader in READERS[path.stem.partition("-")[2]]:
            print(path.name, reader.__name__.removeprefix("_"), end=" | ", flush=True)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    outcome = str(reader(folder, path))
                except BaseException:  # it must not happen, and is reported like the rest
                    outcome = repr(traceback.format_exc()[-900:])
            print(outcome, flush=True)
        shutil.rmtree(folder / "out", ignore_errors=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
