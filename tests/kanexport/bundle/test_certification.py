"""Certificates of exports: the section of the manifest, the served graph in the box, and options that do not fit."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from kanexport.cli import export_command
from kanexport.errors import InvalidKan, OptionError
from kanexport.shared import manifest
from kanexport.shared.cli import program
from kanexport.shared.sections import NEITHER
from tests.support import golden_cases
from tests.support.tiers import full

HELLO = golden_cases.case("pykan-hello-pruned").path
BUDGET = "90s"  # the certificate ends earlier, also on a busy machine


def run(*arguments: object) -> int:
    parser = program.Parser(prog="kanserve export")
    export_command.configure(parser)
    return export_command.run(program.parse(parser, [str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a version with a certificate over the training grid."""
    repository = tmp_path_factory.mktemp("repository")
    words = ("--features", "a,b", "--classes", "z", "--certify", "--certify-budget", BUDGET)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(HELLO, "--repository", repository, "--name", "hello", *words) == 0
    assert "certified over the training grid" in printed.getvalue()
    return repository / "hello" / "1"


def test_the_section_of_the_manifest(certified: Path) -> None:
    stored = manifest.load(certified).certificate
    assert (stored.box, stored.sha256, stored.budget, stored.range_check) == ("grid", "", 90.0, False)
    assert len(stored.low) == len(stored.high) == len(stored.directions) == len(stored.lipschitz) == 2
    assert [len(row) for row in (*stored.directions, *stored.lipschitz)] == [1] * 4
    assert stored.direction(0, 0) == NEITHER
    assert stored.output_low[0] <= stored.found_low[0] < stored.found_high[0] <= stored.output_high[0]
    assert 0 < stored.slack[0] < 1
    assert 0 < stored.seconds < 90
    assert len(stored.assumptions) == 5
    assert [len(row) for row in (*stored.at_low, *stored.at_high)] == [2, 2]
    assert [(own.input, own.output, len(own.rises), len(own.falls)) for own in stored.witnesses] == [
        (0, 0, 3, 3),
        (1, 0, 3, 3),
    ]


@full("combination")
def test_a_certificate_with_many_pairs_has_no_rows(tmp_path: Path) -> None:
    path = golden_cases.case("efficient-kan-digits").path
    words = ("--name", "digits", "--certify", "--certify-budget", "0.1s", "--no-kernel")
    assert run(path, "--repository", tmp_path, *words) == 0
    stored = manifest.load(tmp_path / "digits" / "1").certificate
    assert len(stored.low) * len(stored.output_low) == 640
    assert (stored.at_low, stored.at_high, stored.witnesses) == ((), (), ())


def test_the_box_of_rows_as_the_range_of_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("b,a\n-0.5,0.25\n0.5,0.75\n")
    words = ("--features", "a,b", "--certify", "--certify-box", file, "--certify-budget", "1", "--json")
    policy = ("--out-of-range", "reject", "--range-from", "certificate")
    assert run(HELLO, "--repository", tmp_path / "models", "--name", "hello", *words, *policy) == 0
    document = json.loads(capsys.readouterr().out)["certificate"]
    assert (document["low"], document["high"]) == ([0.25, -0.5], [0.75, 0.5])
    assert document["box"] == "rows.csv"
    assert len(document["sha256"]) == 64
    whole = manifest.load(tmp_path / "models" / "hello" / "1")
    assert (whole.out_of_range, whole.certificate.range_check) == ("reject", True)


def test_a_network_without_a_certificate_writes_nothing(tmp_path: Path) -> None:
    other = golden_cases.case("fastkan-digits")
    words = [word for option in other.options for word in ("--option", option)]
    with pytest.raises(InvalidKan) as caught:
        run(other.path, *words, "--repository", tmp_path, "--name", "other", "--certify", "--certify-budget", "1s")
    assert caught.value.code == "certificate-not-supported"
    assert list(tmp_path.glob("**/manifest.json")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--certify", "--quantize", "int8"), "--certify cannot be combined with --quantize"),
        (("--certify", "--dtype", "float64"), "--certify needs float32, found --dtype float64"),
        (("--certify", "--recursive"), "--certify cannot be combined with --recursive"),
        (("--certify", "--c", "code"), "--certify needs --repository: C code has no certificate"),
        (("--certify-box", "grid"), "--certify-box needs --certify"),
        (("--certify-budget", "5s"), "--certify-budget needs --certify"),
        (("--range-from", "certificate"), "--range-from certificate needs --certify"),
        (("--certify", "--range-from", "certificate"), "needs --out-of-range flag or reject"),
        (("--certify", "--certify-budget", "0s"), "--certify-budget is '0s', expected a time above zero"),
        (("--certify", "--certify-box", "none.npy"), "--certify-box none.npy cannot be read"),
    ],
)
def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as caught:
        run(HELLO, *words)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
