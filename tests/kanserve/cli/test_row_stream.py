"""Row streams of `kanserve infer`: columnar files, large files in chunks, incremental results, rates and warnings."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from kanexport.contract import csv_columns
from kanexport.contract.cli import tables
from kanexport.contract.naming import UNNAMED, Names
from kanserve.cli import infer, input_rows, row_stream
from kanserve.cli.options import InputError
from kanserve.client.sync import Client
from kanserve.types import TensorInfo
from tests.support.command_line import Server, document, kanserve
from tests.support.row_files import columns, csv_of

RNG = np.random.default_rng(7)
ROWS = RNG.uniform(-2, 2, (5, 3)).astype(np.float32)
MANY = RNG.uniform(-2, 2, (40_000, 3)).astype(np.float32)
X = TensorInfo("x", "FP32", (-1, 3))
PARSERS = ["pyarrow", "numpy"]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_large_csv_is_computed_part_by_part(
    parser: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(parser)
    monkeypatch.setattr(csv_columns, "_parser", lambda: getattr(csv_columns, f"_by_{parser}"))
    monkeypatch.setattr(csv_columns, "PART", 2**18)
    path = csv_of(tmp_path / "rows.csv", MANY, "a,b,c")
    done = kanserve("infer", "tiny", "--input", path, "--output", tmp_path / "y.npy", "--url", server.url)
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "rows.npy", MANY)
    assert (
        kanserve(
            *("infer", "tiny", "--input", tmp_path / "rows.npy", "--output", tmp_path / "z.csv", "--url", server.url)
        ).returncode
        == 0
    )
    result = np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1, dtype=np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), result)
    with Client(server.url) as client:
        np.testing.assert_allclose(result[-9:], client.infer("tiny", MANY[-9:]).outputs["y"], rtol=1e-5)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_bad_cell_far_below_is_named_and_no_file_is_left(
    parser: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(parser)
    monkeypatch.setattr(csv_columns, "_parser", lambda: getattr(csv_columns, f"_by_{parser}"))
    monkeypatch.setattr(csv_columns, "PART", 2**18)
    path = csv_of(tmp_path / "rows.csv", MANY, "a,b,c")
    lines = path.read_text().splitlines()
    lines[30_000] = "1,oops,3"
    path.write_text("\n".join(lines))
    target = tmp_path / "y.npy"
    target.write_bytes(b"as it was")
    done = kanserve("infer", "tiny", "--input", path, "--output", target, "--url", server.url)
    assert done.returncode == 2
    assert f"{path}, line 30001, column 2: found 'oops', expected a number" in done.stderr
    assert target.read_bytes() == b"as it was"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.csv", "y.npy"]


NAMES = ["rows.parquet", "rows.feather", "rows.arrow"]


# An Arrow stream has no signature, so kanserve cannot recognize it on stdin.
@pytest.mark.parametrize(("name", "by_stdin"), [*itertools.product(NAMES, [False, True]), ("stream.arrow", False)])
def test_tables_of_columns_give_the_same(name: str, by_stdin: bool, server: Server, tmp_path: Path) -> None:
    path = columns(tmp_path / name, MANY[:5000].astype(np.float64))
    common = ("infer", "tiny", "--url", server.url, "--output", tmp_path / "y.npy", "--input")
    done = kanserve(*common, "-", stdin=path.read_bytes()) if by_stdin else kanserve(*common, path)
    assert done.returncode == 0, done.stderr
    with Client(server.url) as client:
        expected = [client.infer("tiny", MANY[at : at + 1000]).outputs["y"] for at in range(0, 5000, 1000)]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    whole = input_rows.rows_for(X, input_rows.contents(str(path)))  # as the other commands read the file
    np.testing.assert_array_equal(whole, MANY[:5000])


def test_columns_of_a_table_find_their_places_by_name(tmp_path: Path) -> None:
    names = Names(features=("length", "width", "height"))
    for suffix in (".parquet", ".arrow"):
        path = columns(tmp_path / f"rows{suffix}", ROWS[:, [2, 0, 1]], ["height", "length", "width"])  # type: ignore[arg-type]  # iterated
        with row_stream.opened(str(path)) as supplied:
            (result,) = row_stream.rows([X], supplied, names=names).parts
        np.testing.assert_array_equal(result, ROWS)
        path = columns(path, ROWS, ["height", "lenght", "width"])  # type: ignore[arg-type]  # iterated
        with (
            row_stream.opened(str(path)) as supplied,
            pytest.raises(InputError, match="missing column 'length', found 'lenght'"),
        ):
            list(row_stream.rows([X], supplied, names=names).parts)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"a": [1.0, 2.0], "b": [1.0, None], "c": [0, 1]},
            "row 1, column 'b': found no value (null), expected a",
        ),
        ({"a": [1.0, 2.0], "b": ["x", "y"], "c": [0, 1]}, "column 'b': found values of type string, expected numbers"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, "found 2 columns, expected 3 columns for input 'x'"),
        ({}, "has no columns"),
    ],
)
def test_a_table_that_is_no_rows_is_explained(
    values: dict[str, Any], says: str, server: Server, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(values), tmp_path / "rows.parquet")
    done = kanserve("infer", "tiny", "--input", tmp_path / "rows.parquet", "--url", server.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / 'rows.parquet'}" in done.stderr
    assert says in done.stderr


def test_without_pyarrow_a_table_says_how_to_install_it(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with mock.patch.dict(sys.modules, {"pyarrow": None}):
        for command in (("infer",), ("explain",)):
            done = kanserve(*command, "tiny", "--input", path, "--url", server.url)
            assert (done.returncode, done.stdout) == (2, "")
            assert "rows.parquet: a .parquet file needs the Python package pyarrow, which is not" in done.stderr
            assert "-m pip install -e '.[tables]'" in done.stderr
        csv = csv_of(tmp_path / "rows.csv", MANY)  # numpy parses it
        assert len(input_rows.rows_for(X, input_rows.contents(str(csv)))) == len(MANY)


def test_pyarrow_is_loaded_for_large_tables_alone(server: Server, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "rows.csv", ROWS)
    code = (
        "import sys; from kanserve.cli import main\n"
        f"code = main.main(['infer', 'tiny', '--input', {str(path)!r}, '--url', {server.url!r}])\n"
        "print('pyarrow' in sys.modules, code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("False 0\n")


def test_a_header_is_no_order_if_the_model_names_no_features(server: Server, tmp_path: Path) -> None:
    known = "the model has no feature names: columns are used in file order"
    for header, warns in (("c,b,a", True), ("x0,x1,x2", False), ("", False)):
        path = csv_of(tmp_path / "rows.csv", ROWS, header) if header else csv_of(tmp_path / "rows.csv", ROWS)
        if not header:
            path.write_text("".join(path.read_text().splitlines(keepends=True)[-5:]))
        for command in ("infer", "edges"):
            done = kanserve(command, "tiny", "--input", path, "--url", server.url)
            assert done.returncode == 0, done.stderr
            assert (f"warning: {path} has column names" in done.stderr, known in done.stderr) == (warns, warns)
    assert input_rows.order_of("f", ["b", "a"], 2, Names(features=("a", "b"))) == [1, 0]
    assert input_rows.order_of("f", [], 2, UNNAMED) is None


def test_lines_of_json_and_a_pipe(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.concatenate([ROWS, [[np.nan, 0, 0]]]))
    common = ("infer", "tiny", "--input", tmp_path / "rows.npy", "--url", server.url, "--output")
    assert kanserve(*common, tmp_path / "y.npy").returncode == 0
    expected = np.load(tmp_path / "y.npy")
    assert kanserve(*common, tmp_path / "y.jsonl").returncode == 0
    lines = [json.loads(line)["y"] for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.array([[float(cell) for cell in line] for line in lines], np.float32), expected)
    assert lines[-1] == ["NaN", "NaN"]
    os.mkfifo(tmp_path / "pipe.npy")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe.npy").read_bytes()))
    reader.start()
    assert kanserve(*common, tmp_path / "pipe.npy").returncode == 0
    reader.join(timeout=60)
    np.testing.assert_array_equal(np.load(io.BytesIO(got[0])), expected)
    assert stat.S_ISFIFO((tmp_path / "pipe.npy").stat().st_mode)


def test_the_speed_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    common = ("infer", "tiny", "--input", tmp_path / "rows.npy", "--url", server.url)
    result = document(kanserve(*common, "--json", "--output", tmp_path / "y.jsonl"))
    assert (result["rows"], result["shapes"]) == (5, {"y": [5, 2]})
    assert result["rows_per_second"] == pytest.approx(5 / result["seconds"], rel=0.5)
    monkeypatch.setattr(infer, "REPORTED", 0.0)
    assert re.search(r"^5 rows in \d+\.\d s, \d+ rows per second$", kanserve(*common).stderr, re.MULTILINE)
    monkeypatch.setattr(tables, "EVERY", 0.0)
    np.save(tmp_path / "rows.npy", MANY)
    assert "infer: 1024/40000 rows\n" in kanserve(*common, "--output", tmp_path / "y.npy").stderr
    done = kanserve(
        *common[:2], "--input", csv_of(tmp_path / "rows.csv", MANY), *common[4:], "--output", tmp_path / "y.npy"
    )
    assert "infer: 1024 rows, " in done.stderr
    assert f"% of {tmp_path / 'rows.csv'} read\n" in done.stderr


def test_a_file_of_one_picture_is_not_taken_apart(tmp_path: Path) -> None:
    """28 rows of 28 columns are one row of this model, or 28 rows of a model with flat rows."""
    picture = TensorInfo("x", "FP32", (-1, 4, 4))
    assert input_rows.streams(picture, 16)
    assert not input_rows.streams(picture, 4)
    for rows, count in ((np.arange(16.0).reshape(4, 4), 1), (np.arange(96.0).reshape(6, 16), 6)):
        with row_stream.opened(str(csv_of(tmp_path / "rows.csv", rows))) as supplied:
            result = np.concatenate(list(row_stream.rows([picture], supplied).parts))
        np.testing.assert_array_equal(result, rows.reshape(count, 4, 4))


def test_a_number_that_does_not_fit_is_named_by_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_stream, "PART_BYTES", 240)
    rows = np.zeros((100, 3))
    rows[57, 1] = 1e300
    np.save(tmp_path / "rows.npy", rows)
    with row_stream.opened(str(tmp_path / "rows.npy")) as supplied:
        parts = row_stream.rows([X], supplied).parts
        with pytest.raises(InputError, match=r"value \[57, 1\]: 1e\+300 is out of the range of FP32"):
            list(parts)
