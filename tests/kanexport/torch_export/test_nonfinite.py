"""NaN and infinities in a module's rows: compared with the graph, and differences are reported."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from kanexport.errors import InvalidKan, VerificationFailed
from kanexport.torch_export import match, nonfinite
from kanexport.verify.graph_runner import Port
from tests.support import torch_modules as modules
from tests.support.tiers import full
from tests.support.torch_modules import draw, export, names


@full("combination")
def test_what_the_runtime_computes_otherwise_is_told_row_by_row(tmp_path: Path) -> None:
    """LSTM of onnxruntime returns numbers for NaN."""
    parts = {"rnn": nn.LSTM(4, 5, batch_first=True), "kan": modules.FastKANLayer(5, 3)}
    recurrent = modules.Composed(lambda m, x: m.kan(m.rnn(x)[0][:, -1]), **parts)
    manifest = export(recurrent, draw(3, 4), tmp_path).manifest
    (note,) = [note for note in manifest.notes if note.startswith("differs from PyTorch")]
    assert "if a row has NaN in the middle, NaN in every place, " in note
    assert "PyTorch returns NaN and the exported graph returns " in note
    assert note.endswith(": LSTM of the graph returns numbers for NaN")
    compared = {zone.name: zone.rows for zone in manifest.verification.zones}
    assert compared["nonfinite"] == 6  # an infinity in one place, which saturates


def test_what_is_taken_away_before_a_layer_is_compared(tmp_path: Path) -> None:
    cleaned = modules.Composed(
        lambda m, x: m.kan(torch.nan_to_num(x, posinf=2.0, neginf=-2.0)), kan=modules.KANLinear(4, 3)
    )
    result = export(cleaned, draw(4), tmp_path)
    manifest = result.manifest
    assert names(result) == ["kan"]
    assert not [note for note in manifest.notes if note.startswith("differs from PyTorch")]
    (zone,) = [zone for zone in manifest.verification.zones if zone.name == "nonfinite"]
    assert zone.rows == 9
    assert zone.outputs_max_rel <= 1e-5


def test_every_kind_of_difference_is_one_sentence() -> None:
    rows = match.nonfinite(np.ones((2, 3)), np.ones(3, bool))
    assert len(rows) == 12

    def exact(row: np.ndarray) -> list[np.ndarray]:
        if np.isnan(row).all():
            raise InvalidKan("no NaN, please")
        return [np.array([[1.0, np.nan if np.isnan(row).any() else np.inf]]), row]

    def graph(row: np.ndarray) -> list[np.ndarray]:
        return [np.array([[1.0, 0.25 if np.isnan(row).any() else np.inf]]), np.where(row == -np.inf, 0, row)]

    requested = []

    def blame(row: np.ndarray, lost: bool) -> str:
        requested.append((row, lost))
        return ": LSTM of the graph returns numbers for NaN"

    alike, notes = nonfinite.differing(rows, exact, graph, blame)
    ((row, lost),) = requested
    assert np.isnan(row).any()
    assert lost
    assert alike == [name for name in rows if name.startswith("infinity")]
    assert notes == [
        "differs from PyTorch: if a row has NaN in the middle, NaN in the first place, NaN in the last place, "
        "PyTorch returns NaN and the exported graph returns 0.25: LSTM of the graph returns numbers for NaN",
        "differs from PyTorch: if a row has -infinity in the middle, -infinity in every place, -infinity in the first "
        "place, -infinity in the last place, PyTorch feeds layer 0 with -infinity and the exported graph feeds layer 0 "
        "with 0",
        "differs from PyTorch: if a row has NaN in every place, PyTorch rejects it and the exported graph returns a "
        "result",
    ]


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 3), (2, 6), (3, 12)])
def test_each_place_is_spoilt_once_and_ids_are_not(size: int, count: int) -> None:
    places = match.floating((Port("ids", (2,), "int64"), Port("x", (size,))), np.ones((1, size + 2)))
    rows = match.nonfinite(np.ones((1, size + 2)), places)
    assert len({row.tobytes() for row in rows.values()}) == len(rows) == count
    assert all((row[0, :2] == 1).all() for row in rows.values())
    far = match.far(np.ones((2, size + 2)), places)
    assert (far[:, :2] == 1).all()
    assert (np.abs(far[:, 2:]) >= 10).all()


class Normalised(nn.Module):
    """Radial functions that sum to one by a small constant, on rows of a sum of one by another."""

    def __init__(self, rows: float, functions: float) -> None:
        super().__init__()
        self.rows, self.functions = rows, functions
        self.centers, self.weights = nn.Parameter(torch.linspace(-2, 2, 8)), nn.Parameter(torch.randn(24, 2) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rows:
            x = x / (x.abs().sum(-1, keepdim=True) + self.rows)
        bumps = torch.exp(-(((x[..., None] - self.centers) * 4) ** 2))
        return (bumps / (bumps.sum(-1, keepdim=True) + self.functions)).flatten(1) @ self.weights


@pytest.mark.parametrize("eps", [1e-6, 1e-8, 1e-9, 1e-12])
def test_small_constants_stay_in_the_graph(tmp_path: Path, eps: float) -> None:
    """The optimizer of torch.onnx took constants of 1e-8 for zero: 343 of 1000 rows became NaN."""
    torch.manual_seed(0)
    module = Normalised(eps, eps)
    result = export(module, draw(3), tmp_path)
    session = onnxruntime.InferenceSession(str(result.directory / "model.onnx"))
    rows = np.random.default_rng(0).uniform(-1, 1, (1000, 3)) * 10.0 ** np.linspace(-20, 3, 1000)[:, None]
    rows[0] = 0
    (y,) = session.run(None, {"x": rows.astype(np.float32)})
    with torch.no_grad():
        expected = module(torch.tensor(rows, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ((0, 1e-9), r"returns NaN for a finite row \(large values\), PyTorch returns .*: Div of the graph returns NaN"),
        ((1e-9, 1e-6), r"differs from PyTorch by .* on rows of extreme sizes \(tiny values\)"),
    ],
)
def test_a_graph_that_loses_a_constant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constants: tuple[float, float], words: str
) -> None:
    original = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: original(*a, **{**k, "optimize": True}))
    torch.manual_seed(0)
    with pytest.raises(VerificationFailed, match=words):
        export(Normalised(*constants), draw(3), tmp_path)
    assert not (tmp_path / "m").exists()
