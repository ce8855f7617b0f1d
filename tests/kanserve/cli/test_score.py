"""`kanserve score`: results, messages and exit codes."""

import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from tests.support import forked_process, toy_model
from tests.support.command_line import CLEAN, COMMAND, document, kanserve, wrong_refusals
from tests.support.tiers import full
from tests.support.wait import until

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model.write(tmp_path_factory.mktemp("models")).parent


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(500, 3))
    table = pa.table({"id": np.arange(500), **dict(zip("abcd", values[:, [0, 1, 2, 0]].T, strict=True))})
    parquet.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_scores_and_what_was_assumed(model: Path, rows: Path, tmp_path: Path) -> None:
    done = kanserve("score", model, "--input", rows, "--output", tmp_path / "out", "--keep", "id", "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert "the model has no feature names, so the first columns are its inputs" in done.stderr
    assert "ignored columns: 'd'" in done.stderr
    assert "500 rows in 1 file" in done.stdout
    table = parquet.read_table(rows)
    expected = toy_model.outputs(np.stack([table.column(name).to_numpy() for name in "abc"], axis=1))
    found = parquet.read_table(tmp_path / "out" / "rows.parquet")
    np.testing.assert_allclose(found.column("y1").to_numpy(), expected[:, 1], rtol=1e-4, atol=1e-5)
    again = kanserve("score", model, "--input", rows, "--output", tmp_path / "out", "--keep", "id")
    assert "0 rows in 0 files; nothing to do; 1 complete before" in again.stdout


def test_the_document_counts_rows(model: Path, rows: Path, tmp_path: Path) -> None:
    words = ("score", model, "--input", rows, "--output", tmp_path / "out", "--explain-top-k", 1, "--json")
    found = document(kanserve(*words))
    assert (found["rows"], found["rows_out_of_range"]) == (500, None)
    assert found["columns"] == ["y0", "y1", "explained_output", "top1_input", "top1_contribution"]
    assert found["columns_ignored"] == ["c", "d"]
    assert found["columns_by_position"]


@full("combination")
def test_a_checkpoint_is_exported_first(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x0,x1\n0.1,0.2\n0.3,0.4\n9,9\n")
    checkpoint = GOLDEN / "pykan-hello-adapted" / "model"
    done = kanserve("score", checkpoint, "--input", tmp_path / "rows.csv", "--output", tmp_path / "out", "--coverage")
    assert done.returncode == 0, done.stderr
    assert "exporting the checkpoint, and scoring with it" in done.stderr
    assert "1 rows out of range" in done.stdout
    found = csv.read_csv(tmp_path / "out" / "rows.csv")
    assert found.column("inputs_out_of_range").to_pylist() == [0, 0, 2]


def test_errors_name_the_cause_and_the_solution(model: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, text in (("semi", "a;b;c\n1;2;3\n"), ("null", "a,b,c\n1,2,3\n\n4,,6\n"), ("nan", "1,2,3\n4,nan,6\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    lists = pa.table({"a": [1.0], "b": [2.0], "c": [3.0], "k": [[1]]})
    feather.write_feather(lists, tmp_path / "lists.feather")
    cases = {
        f"score {model} --input {tmp_path}/semi.csv": "semi.csv: it separates cells by ';', expected commas",
        f"score {model} --input {tmp_path}/null.csv": "null.csv, line 4: column 'b': found no value (null)",
        f"score {model} --input {tmp_path}/nan.csv": "nan.csv, line 2: column 'f1': found nan, expected a finite",
        f"score {model} --input {tmp_path}": "overlap, so a run would read results",
        f"score {model} --input {tmp_path}/lists.feather --keep k --format csv": "a csv file cannot hold a column",
        f"score {tmp_path}/none --input {rows}": f"folder not found: {tmp_path}/none",
        f"score {tmp_path} --input {rows}": "has no model version",
        f"score {model} --input '{tmp_path}/*.ipc'": "no file fits",
        f"score {model} --input {rows} --keep key": "missing column 'key' to keep",
        f"score {model} --input {rows} --version 9": "has no version 9",
        f"score {model} --input {rows} --threads 0": "expected a whole number from 1",
        f"score {model} --input {__file__}": "unknown file format .py",
    }
    helped = {words: (text, "  help: ") for words, text in cases.items()}
    assert wrong_refusals(helped, "--output", tmp_path / "out") == []
    bad = {f"score {model} --input {rows}": "Not a directory"}
    assert wrong_refusals(bad, "--output", tmp_path / "file" / "out", code=1) == []


def test_an_interrupted_run_says_what_is_complete(model: Path, rows: Path, tmp_path: Path) -> None:
    large = pa.table({name: np.zeros(600_000) for name in "abc"})
    parquet.write_table(large, rows.with_name("second.parquet"))
    words = ("--input", rows, rows.with_name("second.parquet"), "--output", tmp_path / "out", "--explain-top-k", 1)
    pipe = subprocess.PIPE
    with forked_process.popen([*COMMAND, *map(str, ("score", model, *words))], stderr=pipe, env=CLEAN) as process:
        until((tmp_path / "out" / "_score" / "rows.parquet.json").exists)
        process.send_signal(signal.SIGINT)
        text = process.stderr.read()
    assert process.returncode == 130, text
    assert "interrupted: 1 of 2 files complete, run the same command again to go on" in text.decode()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "rows.parquet",
        "rows.parquet.json",
        "run.json",
    ]
