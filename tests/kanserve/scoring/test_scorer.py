"""Scores of record batches: the served outputs, explanations and coverage as columns."""

import dataclasses
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kanexport.bundle import calibration, error_bars
from kanexport.bundle.certification import CertifyOptions
from kanexport.pipeline import Request, export
from kanexport.shared import manifest as manifests
from kanexport.shared.error_bars import Bars
from kanexport.shared.naming import Names
from kanexport.shared.sections import FLAG, REJECT, CertificateInfo, Edit, EditedEdge
from kanserve.errors import BadRequest, ConfigError, FailedPrecondition, LoadError, NotFound
from kanserve.scoring import Scorer
from kanserve.services.intervals import Reliability
from kanserve.tables.errors import TableError
from tests.support import toy_model
from tests.support.command_line import exported

CHECKPOINT = Path(__file__).parents[2] / "golden" / "checkpoints" / "pykan-hello-adapted" / "model"
ROWS = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
NAMES = Names(features=("age", "height", "weight"), classes=("no", "yes"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        toy_model.write(root, version=version)
    exported(CHECKPOINT, "grid", into=root)
    toy_model.edit(toy_model.write(root, "named"), names=NAMES)
    return root


def table(rows: np.ndarray, names: str | tuple[str, ...] = "abc") -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows[:, at]) for at in range(rows.shape[1])], names=list(names))


def columns(result: pa.RecordBatch, *names: str) -> np.ndarray:
    return np.stack([result.column(name).to_numpy() for name in names], axis=1)


def test_results_are_the_outputs_of_the_model_in_order(models: Path) -> None:
    scorer = Scorer(models / "toy")
    result = scorer(table(ROWS))
    assert result.schema.names == ["y0", "y1"]
    np.testing.assert_allclose(columns(result, "y0", "y1"), toy_model.outputs(ROWS), rtol=1e-4, atol=1e-5)
    facts = json.loads(result.schema.metadata[b"kanserve"])
    assert (facts["model"], facts["version"], len(facts["content"])) == ("toy", "2", 64)
    assert scorer.counts.rows == len(ROWS)
    assert scorer.counts.out_of_range is None  # the model has no grid


def test_columns_have_the_names_of_features_and_classes(models: Path) -> None:
    scorer = Scorer(models / "named", keep=["id"], check=False)
    shuffled = ("weight", "id", "age", "height")
    ids = np.arange(len(ROWS), dtype=np.float32)
    batch = table(np.stack([ROWS[:, 2], ids, ROWS[:, 0], ROWS[:, 1]], axis=1), shuffled)
    result = scorer(batch)
    assert result.schema.names == ["no", "yes", "id"]
    np.testing.assert_allclose(columns(result, "no", "yes"), toy_model.outputs(ROWS), rtol=1e-4, atol=1e-5)
    assert result.column("id").equals(batch.column("id"))
    with pytest.raises(TableError, match="missing column 'age'"):
        Scorer(models / "named", check=False)(table(ROWS))
    with pytest.raises(BadRequest, match="'yes' to keep has the name of a column of the result"):
        Scorer(models / "named", keep=["yes"], check=False)


def test_tables_arrays_and_no_rows_give_the_same_as_batches(models: Path) -> None:
    scorer = Scorer(models / "toy", version=1, check=False)
    parts = pa.Table.from_batches([table(ROWS[:10]), table(ROWS[10:30])])
    assert scorer(parts).to_batches()[1].equals(scorer(table(ROWS[10:30])))
    empty = scorer(parts.slice(0, 0))
    assert (empty.num_rows, empty.schema) == (0, scorer.schema(parts.schema))
    assert scorer(table(ROWS[:0])).num_rows == 0
    assert scorer.predict(ROWS).tolist() == columns(scorer(table(ROWS)), "y0", "y1").tolist()
    with pytest.raises(TableError, match=r"shape \[3000, 2\], expected \[rows, 3\]"):
        scorer.predict(ROWS[:, :2])


def test_a_scorer_travels_to_another_process_and_serves_threads(models: Path) -> None:
    scorer = Scorer(models / "toy", check=False)
    again = pickle.loads(pickle.dumps(scorer))
    assert again.options == scorer.options
    batches = [table(ROWS[at : at + 300]) for at in range(0, 3000, 300)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(again, batches))
    assert pa.Table.from_batches(results).equals(pa.Table.from_batches(list(map(scorer, batches))))
    assert again.counts.rows == 3000


def test_explanations_name_the_largest_contributions(models: Path) -> None:
    scorer = Scorer(models / "named", explain_top_k=5, check=False)
    batch = table(ROWS[:40], NAMES.features)
    result = scorer(batch)
    outputs = toy_model.outputs(ROWS[:40])
    largest = outputs.argmax(axis=1)
    assert result.column("explained_output").to_pylist() == [NAMES.classes[at] for at in largest]
    shares = toy_model.edges(ROWS[:40], 0) @ toy_model.W1  # the model is linear behind its first layer
    for row in range(40):
        pairs = zip(shares[row, :, largest[row]], NAMES.features, strict=True)
        expected = sorted(pairs, key=lambda pair: -abs(pair[0]))
        named = [result.column(f"top{at}_input")[row].as_py() for at in (1, 2, 3)]
        values = [result.column(f"top{at}_contribution")[row].as_py() for at in (1, 2, 3)]
        assert named == [name for _, name in expected]
        np.testing.assert_allclose(values, [value for value, _ in expected], rtol=1e-4, atol=1e-5)
    assert "top4_input" not in result.schema.names  # the model has three inputs
    assert scorer.schema(batch.schema) == result.schema


def test_rows_out_of_range_are_counted_flagged_or_refused(models: Path, tmp_path: Path) -> None:
    scorer = Scorer(models / "grid", coverage=True, check=False)
    rows = np.zeros((20, 2), np.float32)
    rows[7, 1] = 50
    rows[9] = -80
    batch = table(rows, ("x0", "x1"))
    result = scorer(batch)
    assert np.flatnonzero(result.column("inputs_out_of_range").to_numpy()).tolist() == [7, 9]
    assert result.column("farthest_input")[7].as_py() == "x1"
    assert result.column("farthest_input")[0].as_py() is None
    assert result.column("grid_intervals_outside")[7].as_py() > 10
    assert scorer.counts.out_of_range == 2
    flagged, rejecting = tmp_path / "flagged", tmp_path / "rejecting"
    for copy, policy in ((flagged, FLAG), (rejecting, REJECT)):  # the policy of the export
        shutil.copytree(models / "grid" / "1", copy)
        toy_model.edit(copy, out_of_range=policy)
    result = Scorer(flagged, check=False)(batch).column("out_of_range")
    assert np.flatnonzero(result.to_numpy(zero_copy_only=False)).tolist() == [7, 9]
    with pytest.raises(TableError, match="an input is out of range") as caught:
        Scorer(rejecting, check=False)(batch)
    assert caught.value.row == 7


def test_the_policy_can_check_the_certified_box(tmp_path: Path) -> None:
    """The toy has no grid, so that only its certificate gives a range."""
    folder = toy_model.write(tmp_path)
    box = CertificateInfo(
        method="by hand", box="grid", low=(-1.0,) * 3, high=(1.0,) * 3, budget=1.0, boxes=1,
        **{name: (99.0,) * 2 for name in ("output_low", "output_high", "found_low", "found_high", "slack")},
        directions=((0, 0),) * 3, lipschitz=((1.0, 1.0),) * 3, range_check=True,
    )  # fmt: skip
    toy_model.edit(folder, out_of_range=FLAG, certificate=box)
    scorer = Scorer(folder, check=False)
    rows = np.ones((20, 3), np.float32)
    rows[3, 2] = np.nextafter(np.float32(1), np.float32(2))
    rows[8] = -5
    result = scorer(table(rows, ("x0", "x1", "x2"))).column("out_of_range").to_numpy(zero_copy_only=False)
    assert np.flatnonzero(result).tolist() == [3, 8]
    assert scorer.counts.out_of_range == 2


def test_numbers_that_are_not_finite_are_refused_or_passed(models: Path) -> None:
    rows = ROWS[:5].copy()
    rows[2, 1] = np.nan
    with pytest.raises(TableError, match="column 'b': found nan") as caught:
        Scorer(models / "toy", check=False)(table(rows))
    assert caught.value.row == 2
    passed = Scorer(models / "toy", non_finite="pass", check=False)(table(rows))
    assert np.isnan(columns(passed, "y0", "y1")).any(axis=1).tolist() == [False, False, True, False, False]
    with pytest.raises(BadRequest, match="unknown value 'ignore' of non_finite"):
        Scorer(models / "toy", non_finite="ignore", check=False)


def test_folders_that_are_not_one_model_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 3 models \(grid, named, toy\), expected one") as caught:
        Scorer(models)
    assert str(models / "grid") in caught.value.hint
    with pytest.raises(NotFound, match="has no model version"):
        Scorer(tmp_path)
    with pytest.raises(NotFound, match="model 'toy' has no version 7"):
        Scorer(models / "toy", version=7)
    broken = toy_model.write(tmp_path, "broken")
    (broken / "model.onnx").write_bytes(b"")
    with pytest.raises(LoadError):
        Scorer(broken)


def test_an_edit_is_used_only_by_its_number(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = toy_model.write(tmp_path, version=number)
        edge = EditedEdge(layer=0, source=0, destination=0, operation="zero")
        edited = dataclasses.replace(manifests.load(folder), edit=Edit(parent_version=number, edges=(edge,)))
        if number == 2:
            (folder / manifests.FILE_NAME).write_bytes(manifests.dumps(edited))
    assert Scorer(tmp_path).model.info.version == 1
    assert Scorer(tmp_path, version=2).model.info.version == 2
    assert Scorer(tmp_path / "toy" / "2").model.info.version == 2
    shutil.rmtree(tmp_path / "toy" / "1")
    with pytest.raises(NotFound, match="the versions of model 'toy' are edits") as caught:
        Scorer(tmp_path)
    assert caught.value.hint == "pass a version, such as --version 2"


def test_plain_onnx_is_scored_without_explanations(tmp_path: Path) -> None:
    (tmp_path / "plain" / "1").mkdir(parents=True)
    (tmp_path / "plain" / "1" / "model.onnx").write_bytes(toy_model.graph())
    scorer = Scorer(tmp_path / "plain", check=False)
    assert [name for name in scorer.columns if name.startswith("y")] == list(scorer.columns)[:2]
    with pytest.raises(FailedPrecondition, match="plain ONNX"):
        Scorer(tmp_path / "plain", coverage=True, check=False)


def test_prediction_intervals_are_those_of_the_served_model(models: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    targets = Scorer(models / "grid", check=False).predict(rows) + rng.normal(0, 0.1, (2000, 1))
    np.savez(tmp_path / "rows.npz", x=rows, y=targets.astype(np.float32))
    options = calibration.options(tmp_path / "rows.npz", 0.9)
    export(Request(path=CHECKPOINT, repository=tmp_path, name="calibrated", intervals=options))
    scorer = Scorer(tmp_path / "calibrated", intervals=True, check=False)
    result = scorer(table(rows, ("x0", "x1")))
    assert result.schema.names == ["y0", "y0_lower", "y0_upper", "interval_out_of_range"]
    lower, upper = columns(result, "y0_lower", "y0_upper").T
    inside = (lower <= targets[:, 0]) & (targets[:, 0] <= upper)
    assert 0.88 < inside.mean() < 0.92
    assert scorer.reliability == Reliability(True)
    marked = scorer(table(np.array([[0.1, 0.2], [-9, 0]], np.float32), ("x0", "x1")))
    assert marked.column("interval_out_of_range").to_pylist() == [False, True]
    assert scorer.reliability is not None
    assert scorer.reliability.reliable is False
    assert scorer.reliability.note.startswith("rows are out of range: ")
    far = Scorer(tmp_path / "calibrated", intervals=True, check=False)
    far(table(rows / 10 + 0.8, ("x0", "x1")))
    assert far.reliability is not None
    assert far.reliability.reliable is False
    assert "drifted from the baseline" in far.reliability.note
    with pytest.raises(FailedPrecondition, match="has no prediction intervals"):
        Scorer(models / "grid", intervals=True, check=False)


def test_error_bars_are_those_of_the_manifest(models: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (100, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, 0])
    bars = error_bars.options(tmp_path / "rows.npz", enabled=True, certify=True)
    fields: dict[str, Any] = {"certification": CertifyOptions(budget=30), "error_bars": bars}
    whole = export(Request(path=CHECKPOINT, repository=tmp_path, name="barred", **fields)).manifest
    scorer = Scorer(tmp_path / "barred", error_bars=True, check=False)
    rows = np.array([[0.1, 0.2], [0.5, -0.7], [9, 0]], np.float32)
    result = scorer(table(rows, ("x0", "x1")))
    assert result.schema.names == ["y0", "y0_error_bar"]
    expected = Bars(whole.error_bars, whole.certificate).of(rows)
    np.testing.assert_array_equal(columns(result, "y0_error_bar"), expected)
    assert np.isinf(expected[2]).all()
    assert scorer.error_bar_note.startswith("assumption: the true function is no steeper")
    assert Scorer(tmp_path / "barred", check=False).error_bar_note == ""
    with pytest.raises(FailedPrecondition, match="has no error bars"):
        Scorer(models / "grid", error_bars=True, check=False)


def test_damaged_arrow_data_is_rejected_before_it_is_read(models: Path) -> None:
    """Offsets and indices that point outside of the data, as in a damaged file: pyarrow checks them only on request."""
    numbers = dict(zip("abc", ROWS[:2].T, strict=True))
    offsets = pa.py_buffer(np.array([0, 2**30, 2], np.int32))
    indices = pa.py_buffer(np.array([0, 2**20], np.int32))
    words = pa.array(["x"])
    damaged = (
        pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"xy")]),
        pa.DictionaryArray.from_buffers(pa.dictionary(pa.int32(), pa.string()), 2, [None, indices], words),
    )
    for column in damaged:
        with pytest.raises(TableError, match="its data is damaged: In column 3") as caught:
            Scorer(models / "toy", keep=["id"], check=False)(pa.record_batch({**numbers, "id": column}))
        assert caught.value.code == "table-damaged"
