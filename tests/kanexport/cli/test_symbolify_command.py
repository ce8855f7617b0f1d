"""`kanserve symbolify`: the formula, the document, and the new version of a model."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from kanexport import pipeline
from kanexport.cli import symbolify_command
from kanexport.edit import symbolify
from kanexport.errors import OptionError, RepositoryError
from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import FP16_WEIGHTS, QuantizationOptions
from kanexport.shared import manifest
from kanexport.verify import float64_reference
from tests.kanexport.cli.test_arguments import run_command
from tests.support import command_line
from tests.support.golden_cases import case, exported
from tests.support.tiers import full

HELLO = case("pykan-hello-pruned").path
FORMULA = "exp(sin(3.14159*x0) + x1**2)"
run = functools.partial(run_command, symbolify_command)
X = np.random.default_rng(7).uniform(-1, 1, (300, 2))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return command_line.exported(HELLO, "hello", into=tmp_path / "models") / "hello"


def test_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HELLO, "--tolerance", "1e-2", "--library", "sin,x^2,exp", "--features", "a,b", "--classes", "z") == 0
    printed = capsys.readouterr().out
    for part in ("0:1:0  x**2", "z = exp(sin(3.14159*a) + b**2)", "2000 rows (sampled from the training grid)"):
        assert part in printed
    assert printed.endswith("nothing was written\n")


def test_a_new_version(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(model.parents[1] / "rows.npy", X)
    rows = model.parents[1] / "rows.npy"
    assert run(model, "--tolerance", "1e-2", "--rows", rows, "--author", "ada", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["formulas"] == [{"name": "y0", "expression": FORMULA}]
    assert document["error"] < 1e-2
    assert document["held_out_error"] < 1e-2
    assert document["left"] == []
    assert (document["rows"], document["rows_from"]) == (300, "rows.npy")
    functions = {entry["edge"]: entry["function"] for entry in document["replaced"]}
    assert functions == {"0:0:0": "sin", "0:1:0": "x^2", "1:0:0": "exp"}
    assert document["directory"] == str(model / "2")
    about = manifest.load(model / "2")
    assert (about.edit.parent_version, about.edit.author) == (1, "ada")
    assert {edge.operation for edge in about.edit.edges} == {"to x**2", "to exp(x)", "to sin(3.141592653589793*x)"}
    assert about.baseline.rows == 300
    y = float64_reference.evaluate(pipeline.reopen(model / "2").served, X).y[:, 0]
    assert y == pytest.approx(np.exp(np.sin(np.pi * X[:, 0]) + X[:, 1] ** 2), rel=1e-6)


def test_targets_of_a_file_that_also_has_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.npz"
    np.savez(file, x=X, y=np.exp(np.sin(np.pi * X[:, :1]) + X[:, 1:] ** 2))
    assert run(HELLO, "--rows", file, "--targets", file, "--library", "x", "--tolerance", "1e-9") == 0
    assert "error of the original network against the targets: " in capsys.readouterr().out


@full("combination")
def test_the_scalers_of_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaler = tmp_path / "scaler.json"
    scaler.write_text('{"mean": [10, 20], "scale": [2, 4]}')
    export(Request(path=HELLO, repository=tmp_path / "models", name="hello", input_scaler=scaler))
    x = X * [2, 4] + [10, 20]
    np.save(tmp_path / "rows.npy", x)
    folder = tmp_path / "models" / "hello"
    assert run(folder, "--tolerance", "1e-2", "--rows", tmp_path / "rows.npy", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["error"] < 1e-2
    square = {entry["edge"]: entry["expression"] for entry in document["replaced"]}["0:1:0"]
    assert [eval(square, {"x": width}) for width in (20.0, 24.0, 18.0)] == pytest.approx([0, 1, 0.25], abs=1e-3)
    edges = {edge.text for edge in manifest.load(folder / "2").edit.edges}
    assert f"edge 0:1:0 to {square}" in edges
    y = float64_reference.evaluate(pipeline.reopen(folder / "2").served, x).y[:, 0]
    assert y == pytest.approx(np.exp(np.sin(np.pi * X[:, 0]) + X[:, 1] ** 2), rel=1e-5)


def test_a_dry_run_and_nothing_within_tolerance_write_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model / "1", "--tolerance", "1e-2", "--library", "sin,x^2,exp", "--dry-run") == 0
    assert f"y0 = {FORMULA}" in capsys.readouterr().out
    assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt"]
    assert run(model, "--tolerance", "1e-8", "--library", "x,x^2") == 0
    printed = capsys.readouterr().out
    assert "edge 1:0:0 keeps its curve" in printed
    assert "y0 = phi_1_0_0(" in printed
    assert not (model / "2").exists()


def test_arguments_that_are_not_valid(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a version that exists, before the search."""
    monkeypatch.setattr(symbolify, "symbolify", lambda *args, **more: pytest.fail("the search ran"))
    np.save(tmp_path / "y.npy", np.ones((30, 1)))
    for arguments, code in (
        *(
            ((HELLO, f"--tolerance={text}"), "tolerance-out-of-range")
            for text in ("0", "-1", "nan", "inf", "small", "")
        ),
        ((HELLO, "--library", "sine"), "function-unknown"),
        ((HELLO, "--targets", tmp_path / "y.npy"), "rows-required"),
        ((model, "--option", "base_fun=silu"), "arguments-conflict"),
    ):
        with pytest.raises(OptionError) as caught:
            run(*arguments)
        assert caught.value.code == code
    quantization = QuantizationOptions(quantize=FP16_WEIGHTS)
    version = exported("pykan-hello-pruned", tmp_path, quantization=quantization).directory
    with pytest.raises(OptionError, match="is quantized") as caught:
        run(version)
    assert caught.value.code == "edit-of-quantized-version"
    with pytest.raises(RepositoryError, match="exists"):
        run(model, "--new-version", "1")
