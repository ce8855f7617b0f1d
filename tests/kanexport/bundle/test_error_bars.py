"""`--error-bars`: soundness with known functions, stored rows, contradicted assumptions, options, and stale bars."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import calibration
from kanexport.bundle import error_bars as options
from kanexport.bundle.certification import CertifyOptions
from kanexport.bundle.description import Signature
from kanexport.edit import operations
from kanexport.errors import ExportError, OptionError
from kanexport.lowering import lower
from kanexport.pipeline import Request, network
from kanexport.republish import edit_version
from kanexport.shared import manifest
from kanexport.shared.error_bars import Bars
from kanexport.shared.manifest import Manifest
from kanexport.shared.sections import ANCHORS, NO_ERROR_BARS, CertificateInfo, ErrorBars
from kanserve.repository import validation
from tests.kanexport.bundle.test_certification import run as command
from tests.support import golden_cases
from tests.support.golden_cases import case, run
from tests.support.tiers import full

NETWORK = "pykan-hello-adapted"
Function = Callable[[np.ndarray], np.ndarray]
RNG = np.random.default_rng(0)
BUDGET = CertifyOptions(budget=60)  # the certificate ends earlier, also on a loaded machine


def exported(root: Path, x: np.ndarray, y: np.ndarray, *, factor: float = 1.0, **more: Any) -> tuple[Path, Manifest]:
    """The network with error bars of calibration rows, which stay in rows.npz."""
    np.savez(root / "rows.npz", x=x, y=y)
    bars = options.options(root / "rows.npz", factor, enabled=True, certify=True)
    fields: dict[str, Any] = {"certification": BUDGET, "error_bars": bars, "force": True, **more}
    done = golden_cases.exported(NETWORK, root / "models", **fields)
    return done.directory, manifest.load(done.directory)


def outputs(folder: Path, x: np.ndarray) -> np.ndarray:
    return run(folder / "model.onnx", {"x": x.astype(np.float32)})["y"][:, 0].astype(np.float64)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CertificateInfo]:
    """The folder of the network without error bars, and its certificate."""
    done = golden_cases.exported(NETWORK, tmp_path_factory.mktemp("plain"), certification=BUDGET)
    return done.directory, done.manifest.certificate


def zigzag(slopes: np.ndarray, periods: int) -> Function:
    """A function that has exactly these slopes [n] almost everywhere, up or down."""

    def values(x: np.ndarray) -> np.ndarray:
        wave = np.abs((x * periods) % 2 - 1) / periods
        return np.asarray((wave * slopes).sum(axis=1))

    return values


def test_no_error_of_a_function_as_assumed_exceeds_its_bar(tmp_path: Path, plain: tuple[Path, CertificateInfo]) -> None:
    """The function is nearly as steep as the assumption allows, and unrelated to the network."""
    true = zigzag(0.98 * np.array(plain[1].lipschitz)[:, 0], 7)
    x = RNG.uniform(-1, 1, (300, 2))
    folder, whole = exported(tmp_path, x, true(x))
    assert not whole.error_bars.contradicted
    assert whole.error_bars.missed == 0
    rows = RNG.uniform(-1, 1, (20_000, 2)).astype(np.float32)
    bars = Bars(whole.error_bars, whole.certificate).of(rows)
    errors = np.abs(outputs(folder, rows) - true(rows.astype(np.float64)))
    inside = np.isfinite(bars[:, 0])
    assert inside.mean() > 0.95
    assert (errors[inside] <= bars[inside, 0]).all()
    stored = np.array(whole.error_bars.x)
    at_rows = np.abs(outputs(folder, stored) - true(stored))
    assert (at_rows <= np.array(whole.error_bars.errors)[:, 0]).all()


def test_the_stored_rows_give_the_bars_of_all_rows(tmp_path: Path) -> None:
    """A row that is left out lowers no bar, until the limit is reached."""
    x = RNG.uniform(-0.9, 0.9, (400, 2))
    _, whole = exported(tmp_path, x, RNG.normal(size=400) * 5)
    section = whole.error_bars
    assert section.rows == 400
    assert 1 <= len(section.x) < 400
    assert section.contradicted
    kan, names = network(Request(path=case(NETWORK).path, repository=None, options=case(NETWORK).options))
    graphs, signature = lower.lower(kan, "float32"), Signature.of_network(kan, "float32")
    rows = calibration.load(tmp_path / "rows.npz")
    every, _ = options._data(rows, 1.0, whole.certificate, graphs, signature, names)  # as the export computes them
    everything = dataclasses.replace(
        section, x=tuple(map(tuple, every.x.tolist())), errors=tuple(map(tuple, every.errors.tolist()))
    )
    x = RNG.uniform(-0.9, 0.9, (2000, 2)).astype(np.float32)
    np.testing.assert_array_equal(Bars(section, whole.certificate).of(x), Bars(everything, whole.certificate).of(x))


@full("load")
def test_a_large_file_stores_rows_up_to_the_limit(tmp_path: Path, plain: tuple[Path, CertificateInfo]) -> None:
    x = RNG.uniform(-0.95, 0.95, (3000, 2))
    folder, whole = exported(tmp_path, x, outputs(plain[0], x))
    assert len(whole.error_bars.x) == ANCHORS
    assert (folder / "manifest.json").stat().st_size < 100_000
    chosen = np.array(whole.error_bars.x)
    near = np.abs(x[:, np.newaxis] - chosen).sum(axis=2).min(axis=1)
    some = x[RNG.permutation(len(x))[:ANCHORS]]
    at_random = np.abs(x[:, np.newaxis] - some).sum(axis=2).min(axis=1)
    assert near.max() < 0.7 * at_random.max()  # they cover the rows better than random ones


def test_noise_contradicts_the_assumption(tmp_path: Path) -> None:
    x = np.repeat(RNG.uniform(-0.9, 0.9, (50, 2)), 2, axis=0)
    _, whole = exported(tmp_path, x, RNG.normal(size=100))
    assert (whole.error_bars.needed, whole.error_bars.contradicted) == (-1, True)
    assert whole.error_bars.missed > 0.1
    (note,) = (note for note in whole.notes if "contradict" in note)
    assert "no factor is large enough" in note


@full("combination")
def test_a_factor_that_is_large_enough_is_told(tmp_path: Path) -> None:
    steep = RNG.uniform(-0.9, 0.9, (100, 2))
    _, whole = exported(tmp_path, steep, 1000 * steep[:, 0])
    assert 1 < whole.error_bars.needed < 1000
    _, again = exported(tmp_path, steep, 1000 * steep[:, 0], factor=whole.error_bars.needed * 1.01)
    assert not again.error_bars.contradicted


@full("combination")
def test_scaled_rows_and_outputs_are_in_the_users_units(tmp_path: Path, plain: tuple[Path, CertificateInfo]) -> None:
    (tmp_path / "in.json").write_text('{"mean": [10, 20], "scale": [2, 4]}')
    (tmp_path / "out.json").write_text('{"mean": [100], "scale": [50]}')
    scaled = {"input_scaler": tmp_path / "in.json", "output_scaler": tmp_path / "out.json"}
    x = RNG.uniform(-0.9, 0.9, (200, 2))
    y = outputs(plain[0], x) + 0.1 * x[:, 0]
    _, own = exported(tmp_path, x, y)
    _, whole = exported(tmp_path, x * [2, 4] + [10, 20], 50 * y + 100, **scaled)
    rows = RNG.uniform(-0.9, 0.9, (500, 2))
    expected = 50 * Bars(own.error_bars, own.certificate).of(rows.astype(np.float32))
    found = Bars(whole.error_bars, whole.certificate).of((rows * [2, 4] + [10, 20]).astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=0.02)  # two certificates
    np.testing.assert_allclose(np.array(whole.error_bars.x).mean(axis=0), [10, 20], atol=2)


def test_an_edit_drops_the_bars(tmp_path: Path) -> None:
    x = RNG.uniform(-0.9, 0.9, (20, 2))
    folder, whole = exported(tmp_path, x, x[:, 0])
    assert whole.error_bars
    edited = edit_version(folder, [operations.parse("0:0:0", "to", "1.2*sin(x)")], budget=0).result.manifest
    assert edited.error_bars == NO_ERROR_BARS
    assert edited.certificate
    assert any("the error bars of version 1 are dropped" in note for note in edited.notes)


def test_the_command_and_its_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("b,a,y\n0.5,0.25,1\n0.5,0.75,2\n0.5,7.5,2\n")
    words = ("--features", "a,b", "--certify", "--certify-budget", "0.5s", "--error-bars", "--json")
    place = ("--repository", tmp_path, "--name", "m", "--calibration", tmp_path / "rows.csv")
    assert command(case(NETWORK).path, *place, *words, "--error-bar-factor", "2") == 0
    document = json.loads(capsys.readouterr().out)
    bars = document["error_bars"]
    assert (bars["rows"], bars["outside"], bars["stored"], bars["factor"]) == (3, 1, 2, 2.0)
    assert bars["assumption"].startswith("the true function is at most 2 times as steep as the Lipschitz bounds")
    assert "x" not in bars
    assert any("1 of 3 rows of rows.csv are outside of the certified box" in note for note in document["notes"])
    stored = manifest.load(tmp_path / "m" / "1").error_bars.x
    assert sorted(stored) == [(0.25, 0.5), (0.75, 0.5)]
    assert json.loads((tmp_path / "m" / "1" / "manifest.json").read_text())["error_bars"]["factor"] == 2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--error-bars",), "--error-bars needs --certify"),
        (("--error-bars", "--certify"), "--error-bars needs --calibration"),
        (("--module", "nets:make", "--error-bars"), "--error-bars cannot be combined with --module"),
        (("--error-bar-factor", "2"), "--error-bar-factor needs --error-bars"),
        (
            ("--error-bars", "--certify", "--calibration", "rows.npz", "--error-bar-factor", "0"),
            "expected a number above",
        ),
        (("--error-bars", "--certify", "--calibration", "rows.npz", "--quantize", "int8"), "cannot be combined"),
        (("--error-bars", "--certify", "--calibration", "none.npz"), "--calibration none.npz cannot be read"),
        (("--error-bars", "--certify", "--recursive"), "cannot be combined with --recursive"),
    ],
)
def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", x=np.zeros((2, 2)), y=np.zeros(2))
    with pytest.raises(OptionError) as caught:
        command(*([] if "--module" in words else [case(NETWORK).path]), *words)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((3, 2), 7.0), np.zeros(3), "has no row in the certified box"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "has targets of shape"),
        (np.zeros((3, 3)), np.zeros(3), "has rows of shape"),
        (np.zeros((3, 2)), np.full(3, np.nan), "the target is nan in row 0"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        exported(tmp_path, x, y)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("models/m/*"))


@full("combination")
def test_a_classifier_has_no_bars(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((4, 13)), y=np.arange(4) % 3)
    bars = options.options(tmp_path / "rows.npz", enabled=True, certify=True)
    fields: dict[str, Any] = {"certification": CertifyOptions(budget=0.5), "error_bars": bars}
    with pytest.raises(ExportError, match="found one number or label per row"):
        golden_cases.exported("efficient-kan-wine-update-grid", tmp_path / "m", **fields)
    assert not (tmp_path / "m" / "m").exists()


def test_the_server_rejects_sections_that_do_not_fit(tmp_path: Path) -> None:
    x = RNG.uniform(-0.9, 0.9, (20, 2))
    _, whole = exported(tmp_path, x, x[:, 0])
    assert list(validation.error_bar_faults(whole)) == []
    own = whole.error_bars
    faults = {
        "no certificate": dataclasses.replace(whole, certificate=CertificateInfo()),
        "expected 1 to": _with(whole, x=()),
        "errors and": _with(whole, errors=own.errors[1:]),
        "do not fit 2 inputs": _with(whole, x=tuple((*row, 0.0) for row in own.x)),
        "outside of the certified box": _with(whole, x=((9.0, 9.0), *own.x[1:])),
        "the factor or an error is negative": _with(whole, errors=((-1.0,), *own.errors[1:])),
        "or the factor is 0": _with(whole, factor=0.0),
    }
    for text, broken in faults.items():
        assert any(text in fault for fault in validation.error_bar_faults(broken)), text


def _with(whole: Manifest, **fields: Any) -> Manifest:
    return dataclasses.replace(whole, error_bars=dataclasses.replace(whole.error_bars, **fields))


def test_several_outputs_have_their_own_bars() -> None:
    """By hand: two outputs with other bounds, two rows, and the slack."""
    own = CertificateInfo(
        method="m", low=(0.0, 0.0), high=(1.0, 1.0), lipschitz=((1.0, 10.0), (2.0, 0.0)), slack=(0.5, 0.0),
        output_low=(0.0, 0.0), output_high=(1.0, 1.0),
    )  # fmt: skip
    section = ErrorBars(rows=2, factor=3.0, x=((0.0, 0.0), (1.0, 1.0)), errors=((1.0, 0.0), (0.0, 2.0)))
    found = Bars(section, own).of(np.array([[0.25, 0.5], [1.0, 1.0]], np.float32))
    np.testing.assert_allclose(found, [[0.5 + 1 + 4 * (0.25 + 2 * 0.5), 10.0], [0.5, 2.0]], rtol=1e-6)
    assert (found > [[6.5, 10.0], [0.5, 2.0]]).all()  # rounded up
    found = Bars(section, own).of(np.array([[0.0, 0.0], [0.01011, 0.0], [0.12345, 0.0]], np.float32))
    assert [f"{bar:.6g}" for bar in found[:, 1]] == ["0.157", "0.405", "4.94"]  # no zero at a row, and three digits
    outside = np.array([[0.0, 1.5], [np.nan, 0.0], [np.inf, 0.0]], np.float32)
    assert np.isposinf(Bars(section, own).of(outside)).all()
