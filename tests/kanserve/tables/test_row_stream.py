"""Row streams of `kanserve infer`: columnar files, large files in chunks, incremental results, rates and warnings."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kanexport.shared import csv_columns
from kanexport.shared.cli import tables
from kanexport.shared.naming import UNNAMED, Names
from kanserve.cli import infer
from kanserve.cli.options import InputError
from kanserve.client.sync import Client
from kanserve.tables import input_rows, row_stream
from kanserve.types import TensorInfo
from tests.support.command_line import Server, kanserve, wrong_refusals
from tests.support.documents import columns, csv_of

RNG = np.random.default_rng(7)
ROWS = RNG.uniform(-2, 2, (5, 3)).astype(np.float32)
MANY = RNG.uniform(-2, 2, (8000, 3)).astype(np.float32)
X = TensorInfo("x", "FP32", (-1, 3))


@pytest.mark.parametrize("parser", ["pyarrow", "numpy"])
def test_a_large_csv_is_computed_part_by_part_up_to_a_bad_cell(
    parser: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_columns, "_parser", lambda: getattr(csv_columns, f"_by_{parser}"))
    monkeypatch.setattr(csv_columns, "PART", 2**16)
    path, target = csv_of(tmp_path / "rows.csv", MANY, "a,b,c"), tmp_path / "y.npy"
    server.ask("infer", "tiny", "--input", path, "--output", target)
    np.save(tmp_path / "rows.npy", MANY)
    server.ask("infer", "tiny", "--input", tmp_path / "rows.npy", "--output", tmp_path / "z.csv")
    result = np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1, dtype=np.float32)
    np.testing.assert_array_equal(np.load(target), result)
    with Client(server.url) as client:
        np.testing.assert_allclose(result[-9:], client.infer("tiny", MANY[-9:]).outputs["y"], rtol=1e-5)
    lines = path.read_text().splitlines()
    lines[6_000] = "1,oops,3"
    path.write_text("\n".join(lines))
    target.write_bytes(b"as it was")
    bad = {f"infer tiny --output {target}": f"{path}, line 6001, column 2: found 'oops', expected a number"}
    assert wrong_refusals(bad, "--input", path, "--url", server.url) == []
    assert target.read_bytes() == b"as it was"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.csv", "rows.npy", "y.npy", "z.csv"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.feather", "rows.arrow", "stream.arrow"])
def test_tables_of_columns_give_the_same(name: str, server: Server, tmp_path: Path) -> None:
    path, target = columns(tmp_path / name, MANY[:3000].astype(np.float64)), tmp_path / "y.npy"
    with Client(server.url) as client:
        expected = [client.infer("tiny", MANY[at : at + 1000]).outputs["y"] for at in range(0, 3000, 1000)]
    # An Arrow stream has no signature, so kanserve cannot recognize it on stdin.
    for source, stdin in ((path, b""), ("-", path.read_bytes()))[: 1 if name == "stream.arrow" else 2]:
        done = kanserve("infer", "tiny", "--url", server.url, "--output", target, "--input", source, stdin=stdin)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(target), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    whole = input_rows.rows_for(X, input_rows.contents(str(path)))  # as the other commands read the file
    np.testing.assert_array_equal(whole, MANY[:3000])


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


def test_a_table_that_is_no_rows_is_explained(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for values, says in (
        ({"a": [1.0, 2.0], "b": [1.0, None], "c": [0, 1]}, "row 1, column 'b': found no value (null), expected a"),
        ({"a": [1.0], "b": ["x"], "c": [0]}, "column 'b': found values of type string, expected numbers"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, "found 2 columns, expected 3 columns for input 'x'"),
        ({}, "has no columns"),
    ):
        parquet.write_table(pa.table(values), path)
        assert wrong_refusals({"infer tiny": (str(path), says)}, "--input", path, "--url", server.url) == []


def test_without_pyarrow_a_table_says_how_to_install_it(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    texts = (
        "rows.parquet: a .parquet file needs the Python package pyarrow, which is not",
        "-m pip install -e '.[tables]'",
    )
    with mock.patch.dict(sys.modules, {"pyarrow": None}):
        cases = dict.fromkeys(("infer tiny", "explain tiny"), texts)
        assert wrong_refusals(cases, "--input", path, "--url", server.url) == []
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
    common = ("infer", "tiny", "--input", tmp_path / "rows.npy", "--output")
    server.ask(*common, tmp_path / "y.npy")
    expected = np.load(tmp_path / "y.npy")
    server.ask(*common, tmp_path / "y.jsonl")
    lines = [json.loads(line)["y"] for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.array([[float(cell) for cell in line] for line in lines], np.float32), expected)
    assert lines[-1] == ["NaN", "NaN"]
    os.mkfifo(tmp_path / "pipe.npy")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe.npy").read_bytes()))
    reader.start()
    server.ask(*common, tmp_path / "pipe.npy")
    reader.join(timeout=60)
    np.testing.assert_array_equal(np.load(io.BytesIO(got[0])), expected)
    assert stat.S_ISFIFO((tmp_path / "pipe.npy").stat().st_mode)


def test_the_speed_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, text, target = tmp_path / "rows.npy", tmp_path / "rows.csv", tmp_path / "y.npy"
    np.save(rows, ROWS)
    result = server.ask("infer", "tiny", "--input", rows, "--output", tmp_path / "y.jsonl")
    assert (result["rows"], result["shapes"]) == (5, {"y": [5, 2]})
    assert result["rows_per_second"] == pytest.approx(5 / result["seconds"], rel=0.5)
    monkeypatch.setattr(infer, "REPORTED", 0.0)
    common = ("infer", "tiny", "--url", server.url, "--input")
    assert re.search(r"^5 rows in \d+\.\d s, \d+ rows per second$", kanserve(*common, rows).stderr, re.MULTILINE)
    monkeypatch.setattr(tables, "EVERY", 0.0)
    np.save(rows, MANY)
    assert "infer: 1024/8000 rows\n" in kanserve(*common, rows, "--output", target).stderr
    done = kanserve(*common, csv_of(text, MANY), "--output", target)
    assert "infer: 1024 rows, " in done.stderr
    assert f"% of {text} read\n" in done.stderr


def test_a_file_of_one_picture_is_not_taken_apart(tmp_path: Path) -> None:
    """28 rows of 28 columns are one row of this model, or 28 rows of a model with flat rows."""
    picture = TensorInfo("x", "FP32", (-1, 4, 4))
    assert input_rows.streams(picture, 16)
    assert not input_rows.streams(picture, 4)
    for rows, count in ((np.arange(16.0).reshape(4, 4), 1), (np.arange(96.0).reshape(6, 16), 6)):
        with row_stream.opened(str(csv_of(tmp_path / "rows.csv", rows))) as supplied:
            result = np.concatenate(list(row_stream.rows([picture], supplied).parts))
        np.testing.assert_array_equal(result, rows.reshape(count, 4, 4))


def test_a_number_that_does_not_fit_is_named_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stream, "PART_BYTES", 240)
    rows = np.zeros((100, 3))
    rows[57, 1] = 1e300
    np.save(tmp_path / "rows.npy", rows)
    with row_stream.opened(str(tmp_path / "rows.npy")) as supplied:
        parts = row_stream.rows([X], supplied).parts
        with pytest.raises(InputError, match=r"value \[57, 1\]: 1e\+300 is out of the range of FP32"):
            list(parts)
