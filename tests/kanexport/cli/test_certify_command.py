"""`kanserve certify`: the document, the table, boxes and budgets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kanexport.bundle import certification
from kanexport.bundle.certification import CertifyOptions
from kanexport.contract.cli import program
from kanexport.contract.manifest import NETWORK_FILE
from kanexport.contract.naming import Names
from kanexport.contract.sections import INT8
from kanexport.errors import CheckpointError, ExportError, OptionError
from kanexport.pipeline import Request, export
from kanexport.quantization.options import QuantizationOptions
from kanserve.cli import certify

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]
BUDGET = ("--budget", "90s")  # the certificate ends earlier, also on a busy machine


def run(*arguments: object) -> int:
    parser = program.Parser(prog="kanserve certify")
    certify.configure(parser)
    words = [str(argument) for argument in arguments]
    return certify.run(program.parse(parser, words))


@pytest.fixture(scope="module")
def hello(golden: Golden) -> Path:
    return golden("pykan-hello-pruned")[0]


def test_the_document(hello: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hello, "--features", "a,b", "--classes", "z", *BUDGET, "--json") == 0
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
    assert 0 < document["seconds"] < 90
    assert len(document["assumptions"]) == 5


def test_the_box_of_rows(hello: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([[0.1, -0.2], [0.3, 0.4], [0.2, 0.0]]))
    assert run(hello, "--box", tmp_path / "rows.npz", "--budget", "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["box"] == {"low": [0.1, -0.2], "high": [0.3, 0.4]}


def test_columns_are_matched_by_name(hello: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("b,a\n-0.5,0.25\n0.5,0.75\n")
    assert run(hello, "--features", "a,b", "--box", file, "--budget", "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["box"] == {"low": [0.25, -0.5], "high": [0.75, 0.5]}
    with pytest.raises(OptionError, match=r"--box rows.csv: missing column .*c"):
        run(hello, "--features", "a,c", "--box", file)


def test_the_tables(hello: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hello, *BUDGET) == 0
    printed = capsys.readouterr().out
    for part in ("certified low", "y0 direction", "neither", "differ by at most", "assumes: inputs are float32"):
        assert part in printed


def test_columns_of_another_network(hello: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((2, 3)))
    with pytest.raises(OptionError, match="the box has 3 columns, the network has 2 inputs"):
        run(hello, "--box", tmp_path / "rows.npy")


def test_rows_that_are_not_finite(hello: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[0.0, np.nan], [1.0, 0.5]]))
    with pytest.raises(OptionError) as caught:
        run(hello, "--box", tmp_path / "rows.npy")
    assert "nan" in str(caught.value).lower() or "not finite" in str(caught.value)


def test_normalized_inputs_and_modules_are_refused(golden: Golden) -> None:
    path, options = golden("fastkan-digits")
    with pytest.raises(ExportError, match="pass --box with rows") as caught:
        run(path, *(word for option in options for word in ("--option", option)), "--budget", "1s")
    assert caught.value.code == "certificate-not-supported"
    with pytest.raises(ExportError, match="other modules") as caught:
        run(path.parents[1] / "hybrid-transformer-fastkan" / "model.pt", "--budget", "1s")
    assert caught.value.hint


def test_a_version_has_the_certificate_of_its_network(
    hello: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = {}
    export(Request(path=hello, repository=tmp_path, name="hello", out_of_range="clamp"))
    for path, more in ((hello, ("--out-of-range", "clamp")), (tmp_path / "hello" / "1", ())):
        assert run(path, *more, *BUDGET, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        bounds[path] = document["box"], document["outputs"][0]["high"]
    (box, high), (same_box, same_high) = bounds.values()
    assert box == same_box
    assert same_high == pytest.approx(high, rel=0.01)


def test_versions_that_have_no_certificate(hello: Path, tmp_path: Path) -> None:
    version = export(Request(path=hello, repository=tmp_path, name="hello")).directory
    for arguments, code in (
        ((version, "--option", "grid=3"), "arguments-conflict"),
        ((version, "--out-of-range", "clamp"), "arguments-conflict"),
    ):
        with pytest.raises(OptionError) as caught:
            run(*arguments)
        assert caught.value.code == code
    (version / NETWORK_FILE).write_bytes((version / NETWORK_FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="differs from the file that the manifest lists"):
        run(version)


def test_a_quantized_version_has_no_certificate(golden: Golden, tmp_path: Path) -> None:
    path, quantization = golden("efficient-kan-digits")[0], QuantizationOptions(quantize=INT8)
    version = export(Request(path=path, repository=tmp_path, name="digits", quantization=quantization)).directory
    with pytest.raises(OptionError, match="has quantized graphs"):
        run(version)


def test_a_version_with_a_certificate(hello: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = Names(features=("a", "b"), classes=("z",))
    request = Request(path=hello, repository=tmp_path, name="hello", names=names)
    export(dataclasses.replace(request, certification=CertifyOptions(budget=90.0)))
    export(dataclasses.replace(request, version=2))
    assert run(tmp_path / "hello" / "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["box"]["name"] == "grid"
    (output,) = document["outputs"]
    assert output["name"] == "z"
    assert output["low"] < output["found_low"] < output["found_high"] < output["high"]
    assert [entry["direction"] for entry in document["monotone"]] == ["neither", "neither"]
    assert run(tmp_path / "hello" / "1") == 0
    printed = capsys.readouterr().out
    for part in ("the training grid", "z direction", "neither", "assumes: inputs are float32"):
        assert part in printed
    assert run(tmp_path / "hello" / "1", "--budget", "1s", "--json") == 0  # a new certificate
    assert "name" not in json.loads(capsys.readouterr().out)["box"]
    assert run(tmp_path / "hello", "--json") == 0  # of the highest version, which has none
    assert "name" not in json.loads(capsys.readouterr().out)["box"]


def test_a_manifest_that_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OptionError, match=r"manifest.json cannot be read: the manifest is not valid JSON"):
        run(tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("60s", 60.0), ("1.5m", 90.0), ("2h", 7200.0), ("30", 30.0)])
def test_times(text: str, expected: float) -> None:
    assert certification.seconds(text, "--budget") == expected


@pytest.mark.parametrize("text", ["0", "0s", "-1s", "", "soon", "1d", "nan", "9" * 400])
def test_times_that_are_not_valid(text: str) -> None:
    with pytest.raises(OptionError, match="--budget is"):
        certification.seconds(text, "--budget")
