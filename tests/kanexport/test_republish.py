"""Edited versions: settings and names of the parent, verified graphs, the manifest, and what is dropped."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport import pipeline
from kanexport.bundle import baseline, calibration
from kanexport.bundle.calibration import IntervalOptions
from kanexport.bundle.certification import CertifyOptions
from kanexport.edit import operations
from kanexport.errors import ExportError
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.republish import edit_version
from kanexport.shared import manifest as manifests
from kanexport.shared.naming import Names
from kanexport.shared.sections import CLAMP, FLAG, INT8
from kanexport.verify import graph_runner
from tests.support.golden_cases import exported
from tests.support.tiers import full, spread

TO = operations.parse("0:0:0", "to", "1.2*sin(x)")


@pytest.fixture
def hello(tmp_path: Path) -> Callable[..., Path]:
    """Exports a golden checkpoint, and returns the folder of its version."""

    def make(golden: str = "pykan-hello-adapted", /, **fields: Any) -> Path:
        return exported(golden, tmp_path / "models", **{"name": "hello", **fields}).directory

    return make


def outputs(folder: Path, x: np.ndarray) -> np.ndarray:
    session = graph_runner.session((folder / "model.onnx").read_bytes(), None)
    return graph_runner.run(session, {"x": x.astype(np.float32)})["y"]


def test_the_version_is_verified_against_the_edited_network(hello: Callable[..., Path]) -> None:
    folder = hello()
    done = edit_version(folder, [TO, operations.parse("1:3:0", "clamp", "0:0.9")], author="ada", budget=0.2)
    manifest = manifests.load(done.result.directory)
    assert done.result.directory == folder.parent / "2"
    assert manifest == done.result.manifest
    assert manifest.verification_basis == manifests.EDITED
    assert manifest.source == manifests.load(folder).source
    edit = manifest.edit
    assert (edit.parent_version, edit.author, edit.released) == (1, "ada", False)
    assert edit.parent_sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert [edge.text for edge in edit.edges] == ["edge 0:0:0 to 1.2*sin(x)", "edge 1:3:0 clamp 0:0.9"]
    assert [edge.form for edge in edit.edges] == ["exact", "fitted"]
    assert edit.rows_from == "sampled from the training grid"
    assert edit.largest == tuple(output.largest for output in done.difference.outputs)
    assert "edge 0:0:0 was edited: to 1.2*sin(x)" in manifest.notes
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (50, 2))
    change = np.abs(outputs(folder, x) - outputs(done.result.directory, x)).max()
    assert 0.01 < change <= edit.largest[0] * 1.05
    reopened = pipeline.reopen(done.result.directory)
    edge = reopened.kan.layers[0].symbolic[0]
    assert (edge.function.name, edge.c) == ("sin", 1.2)


def test_a_limited_function_travels_with_its_version(hello: Callable[..., Path]) -> None:
    """The function overflows far from the grid, where the limit holds too."""
    folder = hello("pykan-hello-symbolic")
    first = edit_version(folder, [operations.parse("1:0:0", "clamp", "-0.2:0.3")], budget=1)
    assert first.difference.certificates is not None
    assert first.result.manifest.layers[1].symbolic[0].expression.startswith("0.5*(abs(")
    again = edit_version(first.result.directory, [operations.parse("1:0:0", "shift", 0.1)], budget=0).result
    (edge,) = pipeline.reopen(again.directory).kan.layers[1].symbolic
    with np.errstate(over="ignore"):
        far = edge.function.evaluate(np.array([-1e9, 1e9]))
    assert far.max() == 0.3
    assert far.min() >= -0.2


def test_the_settings_of_the_parent_stay(hello: Callable[..., Path]) -> None:
    names = Names(features=("age", "height"), classes=("risk",))
    folder = hello(dtype="float64", max_batch_size=77, names=names, out_of_range=CLAMP, explain=True, tolerance=1e-4)
    before, after = manifests.load(folder), edit_version(folder, [TO], budget=0.2).result.manifest
    for field in ("inputs", "outputs", "max_batch_size", "names", "out_of_range", "opset", "edge_class"):
        assert getattr(after, field) == getattr(before, field), field
    assert after.verification.outputs_tolerance == before.verification.outputs_tolerance
    assert after.explanations.file == before.explanations.file == "explain.onnx"
    assert [step.kind for step in after.layers[0].pre_steps] == ["clip"]


def test_certificates_show_what_changes(hello: Callable[..., Path]) -> None:
    report = edit_version(hello(dtype="float64"), [TO], dry_run=True).difference
    assert report.certificates is None
    assert report.certificates_note == "certificates are for float32 graphs, the version has float64"
    folder, to_x = hello("pykan-hello-pruned", name="pruned"), operations.parse("0:0:0", "to", "x")
    done = edit_version(folder, [to_x], dry_run=True, budget=60)
    changed = done.difference.certificates
    assert changed is not None
    (output,) = changed["outputs"]
    assert output["name"] == "y0"
    assert output["before"] != output["after"]
    assert all(entry["before"] != entry["after"] for entry in changed["directions"])


def test_rows_of_the_user_are_compared_and_become_the_baseline(hello: Callable[..., Path], tmp_path: Path) -> None:
    folder = hello(names=Names(features=("a", "b")))
    (tmp_path / "rows.csv").write_text("b,a\n" + "\n".join(f"{i / 100},{-i / 50}" for i in range(40)))
    done = edit_version(folder, [TO], rows=baseline.load(tmp_path / "rows.csv"), budget=0)
    assert (done.difference.rows, done.difference.rows_from) == (40, "rows.csv")
    assert done.difference.worst_row is not None
    a, b = done.difference.worst_row.inputs
    assert a == -2 * b < 0
    assert done.result.manifest.baseline.rows == 40
    again = edit_version(done.result.directory, [operations.parse("0:1:0", "zero", True)], budget=0)
    assert again.difference.rows_from == "sampled from the input histograms of the baseline"
    assert not again.result.manifest.baseline.rows
    assert any("the baseline of version 2 is dropped" in note for note in again.result.manifest.notes)


def test_intervals_of_the_parent_are_dropped(hello: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.uniform(-1, 1, (200, 2)), y=rng.normal(size=(200, 1)))
    rows = calibration.load(tmp_path / "rows.npz")
    folder = hello(intervals=IntervalOptions(rows=rows, coverage=0.9))
    assert manifests.load(folder).intervals.method
    manifest = edit_version(folder, [TO], budget=0).result.manifest
    assert not manifest.intervals.method
    assert any("the prediction intervals of version 1 are dropped" in note for note in manifest.notes)


def test_a_certificate_of_the_parent_is_computed_again(hello: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "box.csv").write_text("-0.5,-0.25\n0.5,0.75\n")
    options = CertifyOptions(0.5, baseline.load(tmp_path / "box.csv"), range_check=True)
    folder = hello("pykan-hello-pruned", certification=options, out_of_range=FLAG)
    before = manifests.load(folder).certificate
    after = edit_version(folder, [operations.parse("0:0:0", "raise", 0.25)], budget=0).result.manifest.certificate
    for field in ("box", "sha256", "low", "high", "budget", "range_check"):
        assert getattr(after, field) == getattr(before, field), field
    assert after.output_low != before.output_low
    with pytest.raises(ExportError, match="certificate") as caught:
        edit_version(folder, [operations.parse("0:0:0", "to", "sgn(x)")], budget=0)
    assert caught.value.code == "certificate-not-supported"
    folder = hello("pykan-hello-pruned", name="unchecked", certification=CertifyOptions(0.5))  # it is dropped there
    manifest = edit_version(folder, [operations.parse("0:0:0", "to", "sgn(x)")], budget=0).result.manifest
    assert not manifest.certificate
    assert any(note.startswith("the edited network has no certificate:") for note in manifest.notes)


def test_repositories_and_the_next_free_version(hello: Callable[..., Path], tmp_path: Path) -> None:
    folder = hello()
    before = sorted(folder.parent.rglob("*"))
    assert edit_version(folder, [TO], dry_run=True, budget=0).result.manifest.version == 2
    assert sorted(folder.parent.rglob("*")) == before
    (folder.parent / "7").mkdir()
    assert edit_version(folder, [TO], budget=0).result.directory == folder.parent / "8"
    other = edit_version(folder, [TO], repository=tmp_path / "other", budget=0).result
    assert other.directory == tmp_path / "other" / "hello" / "2"
    chosen = edit_version(folder, [TO], version=3, budget=0).result
    assert chosen.directory == folder.parent / "3"
    # A version outside of a repository needs one.
    moved = folder.parent.rename(tmp_path / "snapshot") / "1"
    refused(moved, "repository-missing", budget=0)
    done = edit_version(moved, [TO], repository=tmp_path / "new", budget=0).result
    assert done.directory == tmp_path / "new" / "hello" / "2"


def refused(folder: Path, code: str, **fields: Any) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ExportError) as caught:
        edit_version(folder, fields.pop("edits", [TO]), **fields)
    assert caught.value.code == code
    assert caught.value.hint
    assert sorted(folder.parent.rglob("*")) == before


def test_what_cannot_be_edited_changes_nothing(hello: Callable[..., Path], tmp_path: Path) -> None:
    folder = hello()
    refused(folder, "edits-missing", edits=[])
    refused(folder, "edge-unknown", edits=[operations.parse("0:9:0", "zero", True)])
    refused(folder, "expression-undefined", edits=[operations.parse("0:0:0", "to", "1/x")])
    refused(folder, "version-exists", version=1)
    refused(folder, "author-invalid", author="a\nb")
    refused(folder.parent, "version-unreadable")
    (tmp_path / "three.csv").write_text("1,2,3\n4,5,6\n")
    refused(folder, "rows-wrong-shape", rows=baseline.load(tmp_path / "three.csv"))
    (folder / manifests.NETWORK_FILE).write_bytes(b"x" * (folder / manifests.NETWORK_FILE).stat().st_size)
    refused(folder, "file-hash-differs")
    int8 = hello("efficient-kan-digits", name="digits", quantization=QuantizationOptions(quantize=INT8))
    refused(int8, "edit-of-quantized-version", edits=[operations.parse("0:20:0", "zero", True)], budget=0)


@full("load")
def test_the_report_of_a_wide_network_is_fast(hello: Callable[..., Path]) -> None:
    """64 inputs, 10 outputs: the target is 5 s of the processor without the certificates."""
    folder, begin = hello("efficient-kan-digits"), time.process_time()
    edit_version(folder, [operations.parse("0:20:3", "clamp", "-0.1:0.1")], budget=0)
    assert time.process_time() - begin < 5


SCALER = {"mean": [40.0, -3.0], "scale": [12.0, 0.5]}


@pytest.fixture
def scaled(hello: Callable[..., Path], tmp_path: Path) -> Path:
    """A version whose inputs are in the units of a user."""
    (tmp_path / "scaler.json").write_text(json.dumps(SCALER))
    return hello(input_scaler=tmp_path / "scaler.json")


# An edge, an operation, its value, and the value of the same edit in the units of the network.
UNITS = [
    ("0:1:2", "to", "0.3*sin(2*x)", "0.3*sin(2*(0.5*x - 3))"),
    ("0:1:2", "to", "x**2 - exp(-x)", "(0.5*x - 3)**2 - exp(-(0.5*x - 3))"),
    ("0:0:0", "clamp", "-0.1:0.1", "-0.1:0.1"),
    ("0:0:0", "points", [[34.0, 0.1], [46.0, -0.2]], [[-0.5, 0.1], [0.5, -0.2]]),
    ("0:0:0", "monotone", "down", "down"),
    ("0:0:0", "shift", 1.2, 0.1),
    ("1:0:0", "shift", 0.01, 0.01),
]


@spread("edge,operation,value,of_network", UNITS, 3)
def test_an_edit_is_in_the_units_of_the_inputs(
    scaled: Path, tmp_path: Path, edge: str, operation: str, value: Any, of_network: Any
) -> None:
    """The same edit of a twin without a scaler has the same outputs for scaled rows."""
    twin = exported("pykan-hello-adapted", tmp_path / "twin", name="hello").directory
    edited = edit_version(scaled, [operations.parse(edge, operation, value)], budget=0)
    plain = edit_version(twin, [operations.parse(edge, operation, of_network)], budget=0)
    z = np.random.default_rng(2).uniform(-0.9, 0.9, (64, 2))
    x = z * SCALER["scale"] + SCALER["mean"]
    y = outputs(plain.result.directory, z)
    np.testing.assert_allclose(outputs(edited.result.directory, x), y, rtol=2e-4, atol=2e-5)
    (own,), (other,) = (done.difference.curves for done in (edited, plain))
    scale, offset = (12.0, 40.0) if edge == "0:0:0" else (0.5, -3.0) if edge == "0:1:2" else (1.0, 0.0)
    np.testing.assert_allclose(own.x, np.array(other.x) * scale + offset, rtol=1e-9)
    np.testing.assert_allclose(own.grid, np.array(other.grid) * scale + offset, rtol=1e-9)
    np.testing.assert_allclose(own.before, other.before, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.after, other.after, rtol=1e-6, atol=1e-9)
    assert own.error_max == pytest.approx(other.error_max, rel=1e-6, abs=1e-12)


def test_messages_have_the_units_of_the_inputs(scaled: Path) -> None:
    with pytest.raises(ExportError, match=r"the point x = 0.5 is outside the grid 28\.\d+ to 51\.\d+"):
        edit_version(scaled, [operations.parse("0:0:0", "points", [[0.5, 0.1]])], budget=0)
    with pytest.raises(ExportError, match=r"--shift 40 moves its curve off the grid 28\.\d+ to 51\.\d+"):
        edit_version(scaled, [operations.parse("0:0:0", "shift", 40)], budget=0)
