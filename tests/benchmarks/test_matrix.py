"""`make bench` on the smallest networks: it runs, and it detects a wrong graph. No test checks a time."""

import contextlib
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("torch")

from benchmarks.matrix import __main__ as command
from benchmarks.matrix import contestants, goals, module, record, report
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import EXPORT, ONE_RUN, Truth
from benchmarks.matrix.groups import families, splines
from benchmarks.matrix.module import Shape
from kanexport.detection import registry
from kanexport.shared.manifest import MODEL_FILE
from kanserve.contrib.bench.entrants import MLP, OURS, TORCH
from tests.support.tiers import full

SHAPE = Shape((3, 4, 2))


def small(quick: bool, batches: tuple[int, ...] = (1, 3)) -> Iterator[Case]:
    yield Case(splines.UNIFORM, str(SHAPE), batches, functools.partial(splines.make, SHAPE, most=16))


def spoiled(quick: bool) -> Iterator[Case]:
    """The same network, one of whose weights was changed after its export."""

    def make(work: Work) -> Made:
        network = module.network(SHAPE)
        x = module.rows(3, 16)
        truth = Truth({"x": x}, module.exactly(network, x))
        version = contestants.exported(work, module.save(network, work.folder))
        model = onnx.load(version / MODEL_FILE)
        largest = max(model.graph.initializer, key=lambda entry: int(np.prod(entry.dims)))
        largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.001), largest.name))
        return Made((contestants.one_graph(model.SerializeToString(), truth, ONE_RUN, "spoiled"),), truth.feeds)

    yield Case("spoiled", str(SHAPE), (4,), make)


def run(folder: Path, groups: command.Groups, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = command.main(["--quick", "--cells", str(folder / "cells.jsonl"), *words], groups)
    return code, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[dict[str, Any]]]:
    """A small run's folder, exit code and cells."""
    folder = tmp_path_factory.mktemp("matrix")
    code, out, _ = run(folder, {splines.UNIFORM: small}, "--json")
    return folder, code, json.loads(out)


@full("document")
def test_everybody_responds_right(measured: tuple[Path, int, list[dict[str, Any]]]) -> None:
    _, code, cells = measured
    assert code == 0
    assert [item["rows"] for item in cells] == [1, 3]
    for cell in cells:
        assert {OURS, ONE_RUN, EXPORT, TORCH, MLP} <= {item["name"] for item in cell["entrants"]}
        for item in cell["entrants"]:
            assert item["right"], item
            assert item["steady"], item
            assert 0 < item["lower"] <= item["median"] <= item["upper"]
        assert cell["machine"]["cores"] >= 1
        assert {"onnxruntime", "torch"} <= set(cell["versions"])


@full("document")
def test_what_was_measured_is_kept(measured: tuple[Path, int, list[dict[str, Any]]]) -> None:
    """A second run finds its cells, adds the one that is not there, and passes over a line that was cut off."""
    folder, _, cells = measured
    with (folder / "cells.jsonl").open("a") as file:
        file.write('{"group": "uni')
        file.write("\n")
    code, out, _ = run(folder, {splines.UNIFORM: functools.partial(small, batches=(1, 2, 3))}, "--json")
    again = json.loads(out)
    assert code == 0
    assert [again[0], again[2]] == cells
    assert again[1]["rows"] == 2
    kept = record.Kept(folder / "cells.jsonl", record.place())
    key = {name: cells[0][name] for name in record.CELL}
    assert kept.has(key, quick=True)
    assert not kept.has(key, quick=False)  # one round says whether it runs
    assert not record.Kept(folder / "cells.jsonl", record.place() | {"commit": "another"}).has(key, quick=True)


@full("document")
def test_a_wrong_graph_fails_the_run(tmp_path: Path) -> None:
    code, out, error = run(tmp_path, {"spoiled": spoiled})
    assert code == 1
    assert "WRONG" in out
    assert f"WRONG: spoiled {SHAPE}, 4 rows: {ONE_RUN}" in error
    assert run(tmp_path, {"spoiled": spoiled})[0] == 1  # also if it was found before


def test_other_bits_each_time_fail_the_run(tmp_path: Path) -> None:
    """Right except for the last bit, which changes."""
    count = iter(range(10**9))

    def make(work: Work) -> Made:
        x = np.ones((4, 1), np.float32)
        truth = Truth({"x": x}, x.astype(np.float64))

        def response(rows: np.ndarray) -> np.ndarray:
            return rows if next(count) % 2 else np.nextafter(rows, np.float32(2))

        return Made((truth.entrant(OURS, "", lambda threads: (response, "")),), truth.feeds)

    code, out, _ = run(tmp_path, {"bits": lambda quick: [Case("bits", "one", (2,), make)]})
    assert code == 1
    assert "WRONG: not bit-identical" in out


def test_a_library_that_is_absent_is_named(tmp_path: Path) -> None:
    """And what has no clone is one that is absent, too."""
    facts = families.table()["chebykan"]
    case = Case(families.FAMILIES, "chebykan", (1,), functools.partial(families.make, "chebykan", facts))
    code, out, _ = run(tmp_path, {families.FAMILIES: lambda quick: [case]})
    assert code == 0
    assert f"chebykan is not in the table: {facts['repository']} is not here; --libraries" in out


def test_the_table_of_families_is_sound() -> None:
    """Each is one that kanexport reads, and says where its library is."""
    for name, facts in families.table().items():
        assert name in registry.readers()
        assert ("module" in facts) != ("repository" in facts and "file" in facts), name
        assert compile(facts["make"], name, "eval")


@full("document")
def test_the_report_has_every_cell(measured: tuple[Path, int, list[dict[str, Any]]]) -> None:
    _, _, cells = measured
    text = report.markdown(cells)
    assert text.count(f"| {SHAPE} | ") == len(cells)
    result = goals.ratios(cells, splines.UNIFORM, EXPORT)
    assert set(result) == {(str(SHAPE), 1), (str(SHAPE), 3)}
    figure = goals.least(splines.UNIFORM, EXPORT)(cells)
    assert figure == min(result.values())


@pytest.mark.parametrize(("least", "actual", "outcome"), [(True, 1.9, "**missed**"), (False, 1.9, "met")])
def test_goals(least: bool, actual: float, outcome: str) -> None:
    goal = goals.Goal("a", "b", lambda records: actual, 2.0, least)
    absent = goals.Goal("a", "b", lambda records: None, 2.0, least)
    reported = list(goals.outcomes([goal, absent], []))
    assert [line[-1] for line in reported] == [outcome, "not run"]
    assert reported[0][3] == "1.90x"
