"""`--error-bars`: soundness with known functions, stored rows, contradicted assumptions, options, and stale bars."""

from __future__ import annotations

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
from kanexport.cli import export_command
from kanexport.contract import manifest
from kanexport.contract.cli import program
from kanexport.contract.error_bars import Bars
from kanexport.contract.manifest import Manifest
from kanexport.contract.sections import ANCHORS, NO_ERROR_BARS, CertificateInfo, ErrorBars
from kanexport.edit import operations
from kanexport.errors import ExportError, OptionError
from kanexport.lowering import lower
from kanexport.pipeline import Request, export, network
from kanexport.republish import edit_version
from kanexport.verify import graph_runner
from kanserve.repository import validation

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]
Function = Callable[[np.ndarray], np.ndarray]
RNG = np.random.default_rng(0)
BUDGET = CertifyOptions(budget=60)  # the certificate ends earlier, also on a loaded machine


def exported(golden: Golden, root: Path, rows: Path, *, factor: float = 1.0, **more: Any) -> tuple[Path, Manifest]:
    path, facts = golden("pykan-hello-adapted")
    bars = options.options(rows, factor, enabled=True, certify=True)
    fields: dict[str, Any] = {"name": "m", "certification": BUDGET, "error_bars": bars, **more}
    done = export(Request(path=path, repository=root / "models", options=facts, force=True, **fields))
    return done.directory, manifest.load(done.directory)


def saved(root: Path, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(root / "rows.npz", x=x, y=y)
    return root / "rows.npz"


def outputs(folder: Path, x: np.ndarray) -> np.ndarray:
    session = graph_runner.session((folder / "model.onnx").read_bytes(), None)
    return graph_runner.run(session, {"x": x.astype(np.float32)})["y"]


@pytest.fixture(scope="module")
def certificate(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> CertificateInfo:
    path, facts = golden("pykan-hello-adapted")
    root = tmp_path_factory.mktemp("certificate")
    return export(
        Request(path=path, repository=root, name="m", options=facts, certification=BUDGET)
    ).manifest.certificate


def zigzag(slopes: np.ndarray, periods: int) -> Function:
    """A function that has exactly these slopes [n] almost everywhere, up or down."""

    def values(x: np.ndarray) -> np.ndarray:
        wave = np.abs((x * periods) % 2 - 1) / periods
        return np.asarray((wave * slopes).sum(axis=1))

    return values


@pytest.mark.parametrize(("factor", "periods"), [(1.0, 1), (1.0, 7), (2.5, 3), (0.25, 2)])
def test_no_error_of_a_function_within_the_assumption_exceeds_its_bar(
    golden: Golden, tmp_path: Path, certificate: CertificateInfo, factor: float, periods: int
) -> None:
    """The function is nearly as steep as the assumption allows, and unrelated to the network."""
    true = zigzag(0.98 * factor * np.array(certificate.lipschitz)[:, 0], periods)
    x = RNG.uniform(-1, 1, (300, 2))
    folder, whole = exported(golden, tmp_path, saved(tmp_path, x, true(x)), factor=factor)
    assert (np.array(whole.certificate.lipschitz) >= 0.98 * np.array(certificate.lipschitz)).all()
    assert not whole.error_bars.contradicted
    assert whole.error_bars.missed == 0
    rows = RNG.uniform(-1, 1, (50_000, 2)).astype(np.float32)
    bars = Bars(whole.error_bars, whole.certificate).of(rows)
    errors = np.abs(outputs(folder, rows)[:, 0].astype(np.float64) - true(rows.astype(np.float64)))
    inside = np.isfinite(bars[:, 0])
    assert inside.mean() > 0.95
    assert (errors[inside] <= bars[inside, 0]).all()
    stored = np.array(whole.error_bars.x)
    at_rows = np.abs(outputs(folder, stored)[:, 0].astype(np.float64) - true(stored))
    assert (at_rows <= np.array(whole.error_bars.errors)[:, 0]).all()


def test_bars_grow_with_the_distance_to_the_rows_and_are_infinite_outside_of_the_box(
    golden: Golden, tmp_path: Path
) -> None:
    x = RNG.uniform(-1, -0.5, (200, 2))
    folder, _ = exported(golden, tmp_path, saved(tmp_path, x, np.zeros(200)))
    _, whole = exported(golden, tmp_path, saved(tmp_path, x, outputs(folder, x)[:, 0].astype(np.float64)))
    way = np.repeat(np.linspace(-0.5, 0.9, 15, dtype=np.float32)[:, np.newaxis], 2, axis=1)
    bars = Bars(whole.error_bars, whole.certificate).of(np.concatenate([way, [[0, 5], [np.nan, 0], [np.inf, 0]]]))
    assert (np.diff(bars[:15, 0]) > 0).all()
    assert bars[14, 0] > 20 * bars[0, 0]
    assert np.isposinf(bars[15:]).all()
    assert (bars[:15] > 0).all()


def test_the_stored_rows_give_the_bars_of_all_rows(golden: Golden, tmp_path: Path) -> None:
    """A row that is left out lowers no bar, until the limit is reached."""
    x = RNG.uniform(-0.9, 0.9, (400, 2))
    y = RNG.normal(size=400) * 5
    _, whole = exported(golden, tmp_path, saved(tmp_path, x, y))
    section = whole.error_bars
    assert section.rows == 400
    assert 1 <= len(section.x) < 400
    assert section.contradicted
    every, _ = options._data(  # the errors of all rows, as the export computes them
        calibration.load(tmp_path / "rows.npz"), 1.0, whole.certificate, *_graph(golden, whole)
    )
    everything = dataclasses.replace(
        section, x=tuple(map(tuple, every.x.tolist())), errors=tuple(map(tuple, every.errors.tolist()))
    )
    rows = RNG.uniform(-0.9, 0.9, (2000, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        Bars(section, whole.certificate).of(rows), Bars(everything, whole.certificate).of(rows)
    )


def _graph(golden: Golden, whole: Manifest) -> tuple[Any, Any, Any]:
    path, facts = golden("pykan-hello-adapted")
    kan, names = network(Request(path=path, repository=None, options=facts))
    return lower.lower(kan, "float32"), Signature.of_network(kan, "float32"), names


def test_a_large_file_stores_rows_up_to_the_limit(golden: Golden, tmp_path: Path) -> None:
    x = RNG.uniform(-0.95, 0.95, (3000, 2))
    folder, _ = exported(golden, tmp_path, saved(tmp_path, x, np.zeros(3000)))
    y = outputs(folder, x)[:, 0].astype(np.float64)
    folder, whole = exported(golden, tmp_path, saved(tmp_path, x, y))
    assert len(whole.error_bars.x) == ANCHORS
    assert (folder / "manifest.json").stat().st_size < 100_000
    chosen = np.array(whole.error_bars.x)
    near = np.abs(x[:, np.newaxis] - chosen).sum(axis=2).min(axis=1)
    some = x[RNG.permutation(len(x))[:ANCHORS]]
    at_random = np.abs(x[:, np.newaxis] - some).sum(axis=2).min(axis=1)
    assert near.max() < 0.7 * at_random.max()  # they cover the rows better than random ones


def test_noise_contradicts_the_assumption(golden: Golden, tmp_path: Path) -> None:
    x = np.repeat(RNG.uniform(-0.9, 0.9, (50, 2)), 2, axis=0)
    _, whole = exported(golden, tmp_path, saved(tmp_path, x, RNG.normal(size=100)))
    section = whole.error_bars
    assert (section.needed, section.contradicted) == (-1, True)
    assert section.missed > 0.1
    (note,) = (note for note in whole.notes if "contradict" in note)
    assert "no factor is large enough" in note
    steep = RNG.uniform(-0.9, 0.9, (100, 2))
    _, whole = exported(golden, tmp_path, saved(tmp_path, steep, 1000 * steep[:, 0]))
    assert 1 < whole.error_bars.needed < 1000
    again = exported(
        golden, tmp_path, saved(tmp_path, steep, 1000 * steep[:, 0]), factor=whole.error_bars.needed * 1.01
    )
    assert not again[1].error_bars.contradicted


def test_scaled_rows_and_outputs_are_in_the_units_of_the_user(golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"mean": [10, 20], "scale": [2, 4]}')
    (tmp_path / "out.json").write_text('{"mean": [100], "scale": [50]}')
    scaled = {"input_scaler": tmp_path / "in.json", "output_scaler": tmp_path / "out.json"}
    x = RNG.uniform(-0.9, 0.9, (200, 2))
    plain_folder, _ = exported(golden, tmp_path, saved(tmp_path, x, np.zeros(200)))
    y = outputs(plain_folder, x)[:, 0].astype(np.float64) + 0.1 * x[:, 0]
    _, plain = exported(golden, tmp_path, saved(tmp_path, x, y))
    _, whole = exported(golden, tmp_path, saved(tmp_path, x * [2, 4] + [10, 20], 50 * y + 100), **scaled)
    rows = RNG.uniform(-0.9, 0.9, (500, 2))
    expected = 50 * Bars(plain.error_bars, plain.certificate).of(rows.astype(np.float32))
    found = Bars(whole.error_bars, whole.certificate).of((rows * [2, 4] + [10, 20]).astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=0.02)  # two certificates
    np.testing.assert_allclose(np.array(whole.error_bars.x).mean(axis=0), [10, 20], atol=2)


def test_an_edit_drops_the_bars(golden: Golden, tmp_path: Path) -> None:
    x = RNG.uniform(-0.9, 0.9, (20, 2))
    folder, whole = exported(golden, tmp_path, saved(tmp_path, x, x[:, 0]))
    assert whole.error_bars
    edited = edit_version(folder, [operations.parse("0:0:0", "to", "1.2*sin(x)")], budget=0).result.manifest
    assert edited.error_bars == NO_ERROR_BARS
    assert edited.certificate
    assert any("the error bars of version 1 are dropped" in note for note in edited.notes)


def run(*arguments: object) -> int:
    parser = program.Parser(prog="kanserve export")
    export_command.configure(parser)
    return export_command.run(program.parse(parser, [str(argument) for argument in arguments]))


def test_the_command_and_its_document(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = golden("pykan-hello-adapted")
    (tmp_path / "rows.csv").write_text("b,a,y\n0.5,0.25,1\n0.5,0.75,2\n0.5,7.5,2\n")
    words = ("--features", "a,b", "--certify", "--certify-budget", "0.5s", "--error-bars", "--json")
    place = ("--repository", tmp_path, "--name", "m", "--calibration", tmp_path / "rows.csv")
    assert run(path, *place, *words, "--error-bar-factor", "2") == 0
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
        (("--error-bars", "--calibration", "rows.npz"), "--error-bars needs --certify"),
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
def test_options_that_do_not_fit(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", x=np.zeros((2, 2)), y=np.zeros(2))
    with pytest.raises(OptionError) as caught:
        run(golden("pykan-hello-adapted")[0], *words)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


def test_a_module_has_no_error_bars() -> None:
    with pytest.raises(OptionError, match="--error-bars cannot be combined with --module"):
        run("--module", "nets:make", "--error-bars")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((3, 2), 7.0), np.zeros(3), "has no row in the certified box"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "has targets of shape"),
        (np.zeros((3, 3)), np.zeros(3), "has rows of shape"),
        (np.zeros((3, 2)), np.full(3, np.nan), "the target is nan in row 0"),
    ],
)
def test_rows_that_do_not_fit(golden: Golden, tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        exported(golden, tmp_path, saved(tmp_path, x, y))
    assert message in str(caught.value)
    assert not list(tmp_path.glob("models/m/*"))


def test_classifiers_and_networks_without_a_certificate_write_nothing(golden: Golden, tmp_path: Path) -> None:
    for name, width, labels, message in (
        ("efficient-kan-wine-update-grid", 13, 3, "found one number or label per row"),
        ("fastkan-digits", 64, 10, "no grid"),
    ):
        path, facts = golden(name)
        rows = saved(tmp_path, np.zeros((4, width)), np.arange(4) % labels)
        bars = options.options(rows, enabled=True, certify=True)
        request = Request(
            path=path,
            repository=tmp_path / "m",
            name="c",
            options=facts,
            certification=CertifyOptions(budget=0.5),
            error_bars=bars,
        )
        with pytest.raises(ExportError) as caught:
            export(request)
        assert message in str(caught.value)
    assert not (tmp_path / "m" / "c").exists()


def test_the_server_rejects_sections_that_do_not_fit(golden: Golden, tmp_path: Path) -> None:
    x = RNG.uniform(-0.9, 0.9, (20, 2))
    _, whole = exported(golden, tmp_path, saved(tmp_path, x, x[:, 0]))
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
