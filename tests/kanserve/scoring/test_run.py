"""Runs over files: order, continuation after a kill, and bad input."""

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from kanserve.errors import BadRequest
from kanserve.scoring import Scorer, files
from kanserve.scoring.run import Run, Summary
from kanserve.tables import record_batches
from kanserve.tables.errors import TableError
from tests.support import command_line, forked_process, toy_model
from tests.support.tiers import full
from tests.support.wait import until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model.write(tmp_path_factory.mktemp("models")).parent


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return Scorer(model, keep=["id"], check=False)


def table(rows: int, first: int = 0) -> pa.Table:
    values = np.random.default_rng(3 + first).normal(size=(rows, 3)).astype(np.float32)
    return pa.table({"id": np.arange(first, first + rows), **{name: values[:, at] for at, name in enumerate("abc")}})


def numbers(found: pa.Table) -> np.ndarray:
    return np.stack([found.column(name).to_numpy() for name in "abc"], axis=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for at in range(3):
        parquet.write_table(table(5000, at * 5000), folder / f"p{at}.parquet", row_group_size=1700)
    csv.write_csv(table(100, 15_000), folder / "q.csv")
    return folder


def score(scorer: Scorer, inputs: Path, out: Path, **options: Any) -> Summary:
    reports: list[tuple[int, int, str]] = []
    overwrite = options.pop("overwrite", False)
    run = Run(scorer, files.output(str(out)), **options)
    found = files.inputs([str(inputs)], tuple(record_batches.SUFFIXES))
    summary = run.score(found, lambda *report: reports.append(report), overwrite=overwrite)
    if reports:
        assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
        assert reports[-1][0] == summary.rows
    return summary


@pytest.mark.parametrize("threads", [1, 3])
def test_every_file_gives_one_with_its_rows_in_order(scorer: Scorer, data: Path, tmp_path: Path, threads: int) -> None:
    summary = score(scorer, data, tmp_path / "out", threads=threads)
    assert (summary.files, summary.skipped, summary.rows, summary.by_position) == (4, 0, 15_100, True)
    for at in range(3):
        source, result = (parquet.read_table(folder / f"p{at}.parquet") for folder in (data, tmp_path / "out"))
        assert result.schema.names == ["y0", "y1", "id"]
        assert result.column("id").equals(source.column("id"))
        found = np.stack([result.column(name).to_numpy() for name in ("y0", "y1")], axis=1)
        np.testing.assert_allclose(found, toy_model.outputs(numbers(source)), rtol=1e-4, atol=1e-5)
    text = csv.read_csv(tmp_path / "out" / "q.csv")
    assert text.column("id").to_pylist() == list(range(15_000, 15_100))


def test_columns_that_a_csv_keeps_are_its_text(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,a,b,c\n007,1,2,3\n"x, y",1,2,3\n,1,2,3\n')
    score(Scorer(model, keep=["id"], check=False), tmp_path / "t.csv", tmp_path / "out", form="parquet")
    result = parquet.read_table(tmp_path / "out" / "t.parquet")
    assert result.column("id").to_pylist() == ["007", "x, y", ""]


def test_the_form_of_the_results_can_be_chosen_and_no_rows_have_one(scorer: Scorer, data: Path, tmp_path: Path) -> None:
    score(scorer, data / "p0.parquet", tmp_path / "out", form="csv")
    whole = csv.read_csv(tmp_path / "out" / "p0.csv")
    expected = toy_model.outputs(numbers(table(5000)))
    np.testing.assert_allclose(whole.column("y0").to_numpy(), expected[:, 0], rtol=1e-4, atol=1e-5)
    score(scorer, data / "q.csv", tmp_path / "arrow", form="arrow")
    with pa.OSFile(str(tmp_path / "arrow" / "q.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == 100
    parquet.write_table(table(0), tmp_path / "empty.parquet")
    assert score(scorer, tmp_path / "empty.parquet", tmp_path / "empty").rows == 0
    assert parquet.read_schema(tmp_path / "empty" / "empty.parquet").names == ["y0", "y1", "id"]


def test_a_second_run_skips_what_is_complete(scorer: Scorer, model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(scorer, data, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.*")}
    parquet.write_table(table(10), data / "p1.parquet")
    summary = score(scorer, data, out)
    assert (summary.files, summary.skipped, summary.rows, summary.before) == (1, 3, 10, (10_100, 0))
    changed = [path.name for path, time_ in before.items() if path.stat().st_mtime_ns != time_]
    assert changed == ["p1.parquet"]
    other = Scorer(model, check=False)
    with pytest.raises(BadRequest, match="a run with another options wrote it"):
        score(other, data, out)
    assert score(other, data, out, overwrite=True).files == 4
    assert parquet.read_schema(out / "p0.parquet").names == ["y0", "y1"]


def test_a_bad_value_is_named_with_its_file_group_row_and_column(scorer: Scorer, data: Path, tmp_path: Path) -> None:
    bad = table(5000)
    column = bad.column("b").to_pylist()
    column[4000] = None
    bad = bad.set_column(2, "b", pa.array(column, pa.float32()))
    parquet.write_table(bad, data / "p1.parquet", row_group_size=1700)
    with pytest.raises(TableError) as caught:
        score(scorer, data, tmp_path / "out", threads=2)
    assert str(caught.value) == (
        f"{data}/p1.parquet, row group 2, row 4000: column 'b': found no value (null), expected a number"
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_score", "p0.parquet"]  # no half file, and what was complete stays
    parquet.write_table(table(5000, 5000), data / "p1.parquet")
    summary = score(scorer, data, tmp_path / "out", threads=2)
    assert (summary.files, summary.skipped) == (3, 1)


def test_a_file_of_another_schema_or_a_damaged_one_is_named(scorer: Scorer, data: Path, tmp_path: Path) -> None:
    path = data / "p2.parquet"
    cut = path.read_bytes()[: path.stat().st_size // 2]
    parquet.write_table(table(10).drop_columns(["b", "c"]), path)
    with pytest.raises(TableError, match=rf"^{data}/p2\.parquet: found 1 columns, expected 3"):
        score(scorer, data, tmp_path / "out")
    parquet.write_table(table(10).set_column(2, "b", pa.array(["x"] * 10)), path)
    with pytest.raises(TableError, match=r"p2\.parquet: column 'b' has values of type string, expected numbers"):
        score(scorer, data, tmp_path / "out")
    path.write_bytes(cut)
    with pytest.raises(TableError, match=r"p2\.parquet: it cannot be read as a table"):
        score(scorer, data, tmp_path / "out")


@full("rare")
def test_a_killed_run_continues_without_lost_or_repeated_rows(model: Path, tmp_path: Path) -> None:
    """Killed while it writes a file, after it has written one, and before it has."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for at in range(12):
        parquet.write_table(table(60_000, at * 60_000), data / f"{at:02}.parquet")
    # With explanations, so that a file takes long enough to be killed.
    words = ("--output", out, "--keep", "id", "--explain-top-k", "1", "--json")
    command = [*command_line.COMMAND, *map(str, ("score", model, "--input", data, *words))]
    kills, runs = 0, itertools.cycle((".kanserve-*", "*.parquet", "_score/*.json"))
    pipe = subprocess.PIPE
    for pattern in itertools.islice(runs, 40):
        before = set(out.rglob(pattern))
        with forked_process.popen(command, stdout=pipe, stderr=pipe, env=command_line.CLEAN) as process:
            until(lambda: set(out.rglob(pattern)) - before or process.poll() is not None)  # noqa: B023 - called here
            if process.poll() is None:
                process.kill()
                kills += 1
        for path in out.glob("*.parquet"):
            assert parquet.read_metadata(path).num_rows == 60_000
        if kills == 4:
            break
        if process.returncode == 0:  # it was faster than this test
            shutil.rmtree(out)
    assert kills == 4
    summary = command_line.document(command_line.kanserve(*command[3:]))
    assert summary["files"] + summary["files_complete_before"] == 12
    ids = np.concatenate([parquet.read_table(path).column("id").to_numpy() for path in sorted(out.glob("*.parquet"))])
    assert ids.tolist() == list(range(12 * 60_000))
    assert not list(out.rglob(".kanserve-*"))
