"""`--calibration` with `--coverage`: the intervals of golden models, and the errors for rows that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import calibration
from kanexport.errors import OptionError
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared import conformal, manifest
from kanexport.shared.manifest import Manifest
from kanexport.shared.naming import Names
from kanexport.shared.sections import ABSOLUTE, LAC, LOGITS, NORMALIZED, PROBABILITIES, Intervals
from kanserve.analysis import intervals
from kanserve.repository import validation
from tests.support import golden_cases
from tests.support.golden_cases import run
from tests.support.tiers import spread

REGRESSION, CLASSIFIER = "pykan-hello-adapted", "efficient-kan-wine-update-grid"  # 2 -> 1, and 13 -> 3 classes
RNG = np.random.default_rng(0)


def exported(tmp_path: Path, file: Path, name: str, coverage: float = 0.9, method: str = "", **more: Any) -> Manifest:
    wanted = calibration.options(file, coverage, method)
    return golden_cases.exported(name, tmp_path / "models", intervals=wanted, force=True, **more).manifest


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The serving graphs of both networks."""
    folder = tmp_path_factory.mktemp("plain")
    return {
        name: golden_cases.exported(name, folder / name).directory / "model.onnx" for name in (REGRESSION, CLASSIFIER)
    }


def responses(graph: Path, x: np.ndarray) -> np.ndarray:
    return run(graph, {"x": x.astype(np.float32)})["y"]


def noisy(plain: dict[str, Path], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the golden regression, targets whose noise grows with the output; and the noise."""
    x = RNG.uniform(-1, 1, (rows, 2))
    y = responses(plain[REGRESSION], x)
    noise = RNG.normal(size=y.shape) * (0.1 + np.abs(y))
    return x, y + noise, noise


def saved(tmp_path: Path, name: str = "rows.npz", **arrays: Any) -> Path:
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def test_absolute_intervals_are_a_quantile_of_residuals_of_the_graph(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, y, noise = noisy(plain, 1000)
    result = exported(tmp_path, saved(tmp_path, x=x, y=y), REGRESSION)
    section = result.intervals
    assert (section.method, section.coverage, section.rows, section.fitted) == (ABSOLUTE, 0.9, 1000, 0)
    assert (section.name, len(section.sha256)) == ("rows.npz", 64)
    (own,) = section.outputs
    assert own.quantile == pytest.approx(np.sort(np.abs(noise).ravel())[900], rel=1e-5)  # ceil(1001 * 0.9) = 901
    assert own.width == pytest.approx(2 * own.quantile)
    assert section.checked == pytest.approx(0.9, abs=0.06)
    assert any("exchangeable with the calibration rows" in note for note in result.notes)
    assert any("the baseline has the inputs of rows.npz" in note for note in result.notes)
    assert (result.baseline.rows, result.baseline.sha256) == (1000, section.sha256)
    assert manifest.load(tmp_path / "models" / "m" / "1").intervals == section
    assert list(validation.limit_faults(result)) == []


def test_normalized_intervals_are_wider_where_residuals_are_larger(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, y, _ = noisy(plain, 4000)
    section = exported(tmp_path, saved(tmp_path, x=x, y=y), REGRESSION, 0.8, NORMALIZED).intervals
    (own,) = section.outputs
    assert (section.method, section.fitted, len(own.points)) == (NORMALIZED, 2000, calibration.MOST_POINTS)
    order = np.argsort(np.abs(own.points))
    assert own.spreads[order[-1]] > 2 * own.spreads[order[0]]
    x = RNG.uniform(-1, 1, (20_000, 2))
    y = responses(plain[REGRESSION], x)
    low, high = np.moveaxis(intervals.of(section, y), -1, 0)
    target = y + RNG.normal(size=y.shape) * (0.1 + np.abs(y))
    inside = (low <= target) & (target <= high)
    assert inside.mean() == pytest.approx(0.8, abs=0.03)
    small = np.abs(y) < np.median(np.abs(y))
    assert inside[small].mean() == pytest.approx(inside[~small].mean(), abs=0.05)


def wine(plain: dict[str, Path], rows: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the golden classifier, and labels from its probabilities."""
    x = RNG.normal(size=(rows, 13))
    logits = responses(plain[CLASSIFIER], x) / temperature
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return x, np.array([RNG.choice(3, p=row / row.sum()) for row in p])


def test_labels_give_prediction_sets_with_the_coverage(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, labels = wine(plain, 3000, temperature=3.0)
    result = exported(tmp_path, saved(tmp_path, x=x[:1500], y=labels[:1500]), CLASSIFIER)
    section = result.intervals
    assert (section.method, section.scores, section.rows, section.outputs) == (LAC, LOGITS, 1500, ())
    sets = intervals.of(section, responses(plain[CLASSIFIER], x[1500:]))
    assert sets[np.arange(1500), labels[1500:]].mean() == pytest.approx(0.9, abs=0.03)
    assert sets.sum(axis=1).mean() == pytest.approx(section.size, abs=0.1)
    assert sets.sum(axis=1).min() == 1
    assert list(validation.limit_faults(result)) == []


def test_a_csv_has_target_columns_and_its_columns_are_put_in_order(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, labels = wine(plain, 60)
    names = [f"f{at}" for at in range(13)]
    both = np.column_stack([labels, x[:, ::-1]])
    header = ",".join(["y", *names[::-1]])
    np.savetxt(tmp_path / "rows.csv", both, delimiter=",", header=header, comments="")
    by_csv = exported(tmp_path, tmp_path / "rows.csv", CLASSIFIER, names=Names(tuple(names))).intervals
    by_npz = exported(tmp_path, saved(tmp_path, x=x, y=labels), CLASSIFIER).intervals
    assert by_csv.threshold == pytest.approx(by_npz.threshold, abs=1e-5)
    assert by_csv.rows == 60


def test_a_class_without_rows_is_noted(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, labels = wine(plain, 200)
    result = exported(tmp_path, saved(tmp_path, x=x, y=np.minimum(labels, 1)), CLASSIFIER)
    assert any("has no row of the classes [2]" in note for note in result.notes)


def test_rows_that_change_along_the_file_are_noted(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, y, _ = noisy(plain, 400)
    y[200:] += 5.0
    result = exported(tmp_path, saved(tmp_path, x=x, y=y), REGRESSION)
    assert result.intervals.checked < 0.5
    assert any("may not be exchangeable" in note for note in result.notes)


X, Y = RNG.uniform(-1, 1, (40, 2)), RNG.normal(size=40)
WINE = RNG.normal(size=(40, 13))
LABELS = RNG.integers(0, 3, 40)


@spread(
    "name,arrays,coverage,code,text",
    [
        (REGRESSION, {"x": X[:8], "y": Y[:8]}, 0.9, "calibration-too-few-rows", "has 8 rows, expected 9 or more"),
        (REGRESSION, {"x": X, "y": Y}, 0.99, "calibration-too-few-rows", "has 40 rows, expected 99 or more"),
        (REGRESSION, {"x": X, "y": np.zeros((40, 2))}, 0.9, "calibration-wrong-shape", r"targets of shape \[2\]"),
        (REGRESSION, {"x": X[:, :1], "y": Y}, 0.9, "calibration-wrong-shape", r"rows of shape \[1\] for x"),
        (REGRESSION, {"x": X[:9], "y": Y}, 0.9, "calibration-wrong-shape", r"\[9, 2\] for x, expected 40 rows"),
        (REGRESSION, {"x": np.where(X > 0.99, X, np.nan), "y": Y}, 0.9, "rows-not-finite", "x is nan in row 0"),
        (REGRESSION, {"x": X, "y": np.full(40, np.inf)}, 0.9, "rows-not-finite", "the target is inf in row 0"),
        (REGRESSION, {"x": X, "y": np.array(["a"] * 40)}, 0.9, "calibration-wrong-shape", "for y"),
        (REGRESSION, {"x": X}, 0.9, "rows-unreadable", "found x, expected the arrays x and y"),
        (REGRESSION, {"a": X, "b": X, "y": Y}, 0.9, "calibration-wrong-shape", "the inputs a, b, expected x"),
        (CLASSIFIER, {"x": WINE, "y": LABELS + 1}, 0.9, "calibration-labels-invalid", "the label 3 in row"),
        (CLASSIFIER, {"x": WINE, "y": LABELS - 1}, 0.9, "calibration-labels-invalid", "the label -1 in row"),
        (CLASSIFIER, {"x": WINE, "y": LABELS.astype(float)}, 0.9, "calibration-labels-invalid", "type float64"),
        (CLASSIFIER, {"x": WINE, "y": np.zeros((40, 2))}, 0.9, "calibration-wrong-shape", r"or labels \[rows\]"),
    ],
    8,
)
def test_rows_that_do_not_fit_are_rejected(
    tmp_path: Path, name: str, arrays: dict[str, np.ndarray], coverage: float, code: str, text: str
) -> None:
    with pytest.raises(OptionError, match=text) as caught:
        exported(tmp_path, saved(tmp_path, **arrays), name, coverage)
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "models" / "m").exists()


def test_options_that_need_others_are_rejected(tmp_path: Path) -> None:
    for coverage in (0.0, 1.0, -0.5, 90.0, float("nan")):
        with pytest.raises(OptionError, match="expected a number between 0 and 1"):
            calibration.options(saved(tmp_path, x=X, y=Y), coverage)
    with pytest.raises(OptionError, match="--coverage needs --calibration"):
        calibration.options(None, 0.9)
    with pytest.raises(OptionError, match="--interval-method normalized needs targets of shape"):
        exported(tmp_path, saved(tmp_path, x=WINE, y=LABELS), CLASSIFIER, 0.9, NORMALIZED)
    with pytest.raises(OptionError, match="--interval-method needs --coverage"):
        calibration.options(None, None, NORMALIZED)
    assert calibration.options(tmp_path / "missing.npz", None) == calibration.NO_OPTIONS
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        calibration.options(tmp_path / "missing.npz", 0.9)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OptionError, match="found the columns a, b, expected inputs, and targets named y"):
        calibration.options(tmp_path / "bad.csv", 0.9)


def test_probabilities_are_recognized_by_their_sums() -> None:
    p = RNG.dirichlet(np.ones(3), 200)
    labels = np.array([RNG.choice(3, p=row) for row in p])
    rows = calibration.Rows({"x": p}, labels, (), "rows.npz", "0" * 64)
    wanted = calibration.IntervalOptions(0.9, ABSOLUTE, rows)
    port = calibration.Port("y", (3,))
    about = Intervals(coverage=0.9, name="rows.npz", rows=200)
    assert calibration._sets(about, wanted, rows, p, port)[0].scores == PROBABILITIES
    assert calibration._sets(about, wanted, rows, p - 0.01, port)[0].scores == LOGITS
    assert calibration._sets(about, wanted, rows, 2 * p, port)[0].scores == LOGITS


def test_a_quantized_graph_is_calibrated_with_its_own_residuals(tmp_path: Path, plain: dict[str, Path]) -> None:
    x, labels = wine(plain, 600)
    file = saved(tmp_path, x=x, y=np.eye(3)[labels])
    exact = exported(tmp_path, file, CLASSIFIER).intervals
    quantized = exported(tmp_path, file, CLASSIFIER, quantization=QuantizationOptions("int8"))
    assert quantized.approximation.quantize == "int8"
    assert quantized.approximation.rows_from == "generated by the exporter"
    residuals = np.sort(
        np.abs(np.eye(3)[labels] - responses(tmp_path / "models" / "m" / "1" / "model.onnx", x)), axis=0
    )
    for at, own in enumerate(quantized.intervals.outputs):
        assert own.quantile == pytest.approx(residuals[conformal.rank(600, 0.9) - 1, at], rel=1e-5)
        assert own.quantile != exact.outputs[at].quantile
