"""`kanserve certify`: the document, the table, boxes and budgets."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

from kanexport.bundle import certification
from kanexport.bundle.certification import CertifyOptions
from kanexport.errors import CheckpointError, ExportError, OptionError
from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared.manifest import NETWORK_FILE
from kanexport.shared.naming import Names
from kanexport.shared.sections import INT8
from kanserve.cli import certify
from tests.kanexport.cli.test_arguments import run_command
from tests.support.golden_cases import case, exported

run = functools.partial(run_command, certify)
HELLO = case("pykan-hello-pruned").path
BUDGET = ("--budget", "90s")  # the certificate ends earlier, also on a busy machine


def test_the_document_and_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HELLO, "--features", "a,b", "--classes", "z", *BUDGET, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["box"]["low"]) == len(document["box"]["high"]) == 2
    (output,) = document["outputs"]
    assert output["name"] == "z"
    assert output["low"] < output["found_low"] < output["found_high"] < output["high"]
    assert {(entry["input"], entry["output"]) for entry in document["monotone"]} == {("a", "z"), ("b", "z")}
    assert all(entry["direction"] == "neither" for entry in document["monotone"])
    assert all(len(entry[word]) == 2 for entry in document["monotone"] for word in ("rises", "falls"))
    assert [entry["input"] for entry in document["lipschitz"]] == ["a", "b"]
    assert all(entry["bound"] > 0 for entry in document["lipschitz"])
    assert document["seconds"] > 0
    assert len(document["assumptions"]) == 5
    assert run(HELLO, *BUDGET) == 0
    printed = capsys.readouterr().out
    for part in ("certified low", "y0 direction", "neither", "differ by at most", "assumes: inputs are float32"):
        assert part in printed


def test_boxes_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([[0.1, -0.2], [0.3, 0.4], [0.2, 0.0]]))
    file = tmp_path / "rows.csv"
    file.write_text("b,a\n-0.5,0.25\n0.5,0.75\n")
    for arguments, box in (
        (("--box", tmp_path / "rows.npz"), {"low": [0.1, -0.2], "high": [0.3, 0.4]}),
        (("--features", "a,b", "--box", file), {"low": [0.25, -0.5], "high": [0.75, 0.5]}),
    ):
        assert run(HELLO, *arguments, "--budget", "0.2", "--json") == 0
        assert json.loads(capsys.readouterr().out)["box"] == box
    np.save(tmp_path / "three.npy", np.zeros((2, 3)))
    np.save(tmp_path / "nan.npy", np.array([[0.0, np.nan], [1.0, 0.5]]))
    for arguments, text in (
        (("--features", "a,c", "--box", file), r"--box rows.csv: missing column .*c"),
        (("--box", tmp_path / "three.npy"), "the box has 3 columns, the network has 2 inputs"),
        (("--box", tmp_path / "nan.npy"), "nan|not finite"),
    ):
        with pytest.raises(OptionError, match=text):
            run(HELLO, *arguments)


def test_normalized_inputs_and_modules_are_refused() -> None:
    path = case("fastkan-digits").path
    with pytest.raises(ExportError, match="pass --box with rows") as caught:
        run(path, *case("fastkan-digits").facts["export_args"], "--budget", "1s")
    assert caught.value.code == "certificate-not-supported"
    with pytest.raises(ExportError, match="other modules") as caught:
        run(path.parents[1] / "hybrid-transformer-fastkan" / "model.pt", "--budget", "1s")
    assert caught.value.hint


def test_a_version_has_the_certificate_of_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = {}
    export(Request(path=HELLO, repository=tmp_path, name="hello", out_of_range="clamp"))
    for path, more in ((HELLO, ("--out-of-range", "clamp")), (tmp_path / "hello" / "1", ())):
        assert run(path, *more, *BUDGET, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        bounds[path] = document["box"], document["outputs"][0]["high"]
    (box, high), (same_box, same_high) = bounds.values()
    assert box == same_box
    assert same_high == pytest.approx(high, rel=0.01)


def test_versions_that_have_no_certificate(tmp_path: Path) -> None:
    version = exported("pykan-hello-pruned", tmp_path).directory
    for arguments in (("--option", "grid=3"), ("--out-of-range", "clamp")):
        with pytest.raises(OptionError) as caught:
            run(version, *arguments)
        assert caught.value.code == "arguments-conflict"
    (version / NETWORK_FILE).write_bytes((version / NETWORK_FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="differs from the file that the manifest lists"):
        run(version)
    int8 = QuantizationOptions(quantize=INT8)
    quantized = exported("efficient-kan-digits", tmp_path, name="digits", quantization=int8).directory
    with pytest.raises(OptionError, match="has quantized graphs"):
        run(quantized)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OptionError, match=r"manifest.json cannot be read: the manifest is not valid JSON"):
        run(tmp_path)


def test_a_version_with_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = Names(features=("a", "b"), classes=("z",))
    request = Request(path=HELLO, repository=tmp_path, name="hello", names=names)
    export(dataclasses.replace(request, certification=CertifyOptions(budget=90.0)))
    export(dataclasses.replace(request, version=2))
    assert run(tmp_path / "hello" / "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["box"]["name"] == "grid"
    assert [output["name"] for output in document["outputs"]] == ["z"]
    assert [entry["direction"] for entry in document["monotone"]] == ["neither", "neither"]
    assert run(tmp_path / "hello" / "1") == 0
    printed = capsys.readouterr().out
    for part in ("the training grid", "z direction", "neither", "assumes: inputs are float32"):
        assert part in printed
    assert run(tmp_path / "hello" / "1", "--budget", "1s", "--json") == 0  # a new certificate
    assert "name" not in json.loads(capsys.readouterr().out)["box"]
    assert run(tmp_path / "hello", "--json") == 0  # of the highest version, which has none
    assert "name" not in json.loads(capsys.readouterr().out)["box"]


def test_times() -> None:
    for text, expected in (("60s", 60.0), ("1.5m", 90.0), ("2h", 7200.0), ("30", 30.0)):
        assert certification.seconds(text, "--budget") == expected
    for text in ("0", "0s", "-1s", "", "soon", "1d", "nan", "9" * 400):
        with pytest.raises(OptionError, match="--budget is"):
            certification.seconds(text, "--budget")
