"""Recorded outputs of the trained model: compared with an export, they decide ambiguous facts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.bundle.publish import Result
from kanexport.cli import export_command
from kanexport.errors import OptionError, OutputsDiffer
from kanexport.parity import data, resolve
from kanexport.shared import manifest
from kanexport.verify import float64_reference
from tests.support.golden_cases import case, exported, network
from tests.support.tiers import spread

Export = Callable[..., Result]
# One interpretation of the layers and of the network around them, so that an export that must fail tries no others.
ALONE = ("flow=chain", "between=nothing", "before=nothing", "after=nothing")
SILU = (*ALONE, "base_activation=silu")


@pytest.fixture
def held(tmp_path: Path) -> Export:
    """Export a golden case, compared with expected outputs."""

    def run(name: str, x: Any, y: Any, **more: Any) -> Result:
        np.savez(tmp_path / "outputs.npz", x=x, y=y)
        more = {"options": (), "expected_outputs": (tmp_path / "outputs.npz",), **more}
        return exported(name, tmp_path / "models", **more)

    return run


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    reference = case(name).reference()
    return reference["x"], reference["y"]


@spread(
    "name, reported",
    [
        ("efficient-kan-wine-update-grid", {"base_activation": "tanh"}),
        ("fastkan-breast-cancer-denominator", {"base_activation": "gelu", "denominator": "0.8"}),
        ("fasterkan-wine", {"inv_denominator": "unused"}),
        ("jacobikan-wine", {"jacobi_a": "1.0"}),
        ("pykan-hello-symbolic", {}),
    ],
    2,
)
def test_recorded_outputs_decide_what_its_file_leaves_open(name: str, reported: dict[str, str], held: Export) -> None:
    document = held(name, *rows_of(name)).manifest
    assert document.claim.startswith(manifest.VERIFICATION_BASES[manifest.EXPECTED_OUTPUTS])
    assert reported.items() <= document.source.options_decided.items()
    assert not set(reported) & set(document.source.options_assumed)
    (check,) = document.verification.expected_outputs
    assert check.rows > 0
    assert check.max_rel < 5e-5


def test_what_no_reading_gives_is_refused_with_the_nearest_and_nothing_is_written(held: Export, tmp_path: Path) -> None:
    x, y = rows_of("efficient-kan-wine-update-grid")
    with pytest.raises(OutputsDiffer, match=r"none of \d\d+ known interpretations.* is efficient-kan \(") as error:
        held("efficient-kan-wine-update-grid", x, np.sin(3 * y), options=ALONE)
    assert error.value.exit_code == 3
    assert "--module" in error.value.hint
    assert not (tmp_path / "models").exists()


def test_an_error_is_found(held: Export) -> None:
    """In one output among many, at the data next to rows far outside, or in 1% of all."""
    x, y = rows_of("kanx-hello")
    wrong = y.copy()
    wrong[3, 0] += 0.01 * np.abs(y).max()
    with pytest.raises(OutputsDiffer, match="row 3, output 0"):
        held("kanx-hello", x, wrong, options=SILU)
    far = np.concatenate([wrong, float64_reference.evaluate(network("kanx-hello"), x.astype(np.float64) * 1e6).y])
    with pytest.raises(OutputsDiffer):
        held("kanx-hello", np.concatenate([x, x * 1e6]), far, options=SILU)
    with pytest.raises(OutputsDiffer) as error:
        held("kanx-hello", x, 1.01 * y, options=SILU)
    assert "--tolerance" not in error.value.hint  # none is offered that would take it


def test_nan_must_meet_nan(held: Export) -> None:
    x, y = rows_of("kanx-hello")
    x[0, 0], y[0] = np.nan, np.nan
    assert held("kanx-hello", x, y).manifest.verification_basis == manifest.EXPECTED_OUTPUTS
    y[0] = 0.5
    with pytest.raises(OutputsDiffer, match="row 0"):
        held("kanx-hello", x, y, version=2, options=SILU)


def test_outputs_that_say_nothing_decide_nothing(held: Export) -> None:
    """All the same, not finite, or beyond what rounding leaves of them: some reading would fit anything."""
    x, reference = rows_of("jacobikan-wine")
    for y in (np.zeros_like(reference), np.ones_like(reference)):
        with pytest.raises(OutputsDiffer, match="none of 1 known interpretations") as error:
            held("jacobikan-wine", x, y)
        assert "more different values" in error.value.hint
    for rows_, y in ((x, np.full_like(reference, np.nan)), (np.full_like(x, np.nan), reference * np.nan)):
        with pytest.raises(OutputsDiffer, match=r"outputs\.npz: only 0 of 0 rows with finite outputs are comparable"):
            held("jacobikan-wine", rows_, y)
    huge, told = 1e30 * np.random.default_rng(0).normal(size=x.shape), ("jacobi_a=1", "jacobi_b=1")
    with pytest.raises(OutputsDiffer, match=r"rows with finite outputs are comparable|none of"):
        held("jacobikan-wine", huge, reference, options=(*ALONE, *told, "forward=jacobikan"))


def test_a_less_exact_library_is_allowed_by_its_tolerance(held: Export) -> None:
    """flashkan's own float32 run is off by 2e-4."""
    x, y = rows_of("flashkan-ellipj")
    with pytest.raises(OutputsDiffer) as error:
        held("flashkan-ellipj", x, y, options=SILU)
    assert "--tolerance" not in error.value.hint, "the error is many times what rounding explains"
    result = held("flashkan-ellipj", x, y, options=SILU, tolerance=1.1e-4)
    assert result.manifest.verification.expected_outputs
    assert result.manifest.verification_basis == manifest.CHOSEN_TOLERANCE
    assert "within a tolerance you chose" in result.manifest.claim


def _arrays(**arrays: Any) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        np.savez(folder / "a.npz", **arrays)
        return [folder / "a.npz"]

    return make


def _rows(shape: tuple[int, ...], outputs: Any) -> Callable[[Path], list[Path]]:
    """A file with so many rows of ones, and these outputs."""
    return _arrays(x=np.ones(shape), y=outputs)


def _text(name: str, text: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        (folder / name).write_text(text)
        return [folder / name]

    return make


ANOTHER_FORM: list[tuple[Callable[[Path], list[Path]], str]] = [
    (lambda p: [p / "missing.npz"], "No such file"),
    (_arrays(x=np.ones((2, 2))), "has x, expected y"),
    (_rows((2, 2), np.ones((3, 1))), "2 rows of x and 3 of y"),
    (_rows((2, 2), np.array([["a"], ["b"]])), "expected rows of real numbers"),
    (_rows((2, 2), np.ones((2, 1), complex)), "complex128"),
    (_rows((0, 2), np.ones((0, 1))), "0 rows"),
    (_rows((2, 5), np.ones((2, 10))), "5 inputs per row.*takes 64"),
    (_rows((2, 64), np.ones((2, 3))), "3 outputs per row.*gives 10"),
    (lambda p: [p / "a.npz"] * 3, "3 times"),
    (_text("a.csv", "a,b\n1,2\n"), "the columns a, b"),
    (_text("a.csv", "1,2\n3,4\n"), "no header"),
    (_text("a.npz", "nothing"), "cannot be read"),
]


@pytest.mark.parametrize(("make", "text"), ANOTHER_FORM)
def test_expected_outputs_of_another_form_are_refused_by_name(make: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=text) as error:
        exported("efficient-kan-digits", tmp_path / "m", options=(), expected_outputs=tuple(make(tmp_path)))
    assert error.value.exit_code == 2
    assert not (tmp_path / "m").exists()


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    golden, file = case("wav-kan-dog-breast-cancer").path, tmp_path / "a.npz"
    x, y = rows_of("wav-kan-dog-breast-cancer")
    np.savez(file, x=x, y=y)
    arguments = [str(golden), "--repository", str(tmp_path / "m"), "--expected-outputs", str(file)]
    assert export_command.main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verified"].startswith("verified against the trained model (")
    assert document["options"]["decided"]["wavelet_type"] == "dog"
    np.savez(file, x=x, y=y + 1)
    told = [f"--option={option}" for option in (*ALONE, "wavelet_type=dog")]
    assert export_command.main([*arguments, "--version", "2", *told]) == 3
    assert "the recorded outputs" in capsys.readouterr().err
    assert not (tmp_path / "m" / "model" / "2").exists()
    assert export_command.main([str(golden.parent), "--recursive", "--expected-outputs", str(file)]) == 2


def test_a_number_is_found_as_it_was_written() -> None:
    for wanted in (0.8, 1.25, 0.1234567, 3e-5):
        found = resolve.likeliest(lambda value, wanted=wanted: abs(value / wanted - 1), wanted * 3)
        assert found == pytest.approx(wanted, rel=1e-6)


def test_recorded_outputs_of_a_live_module(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import kanexport

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    module.train()
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    path = kanexport.record_outputs(module, x, tmp_path / "outputs.npz")
    assert all(part.training for part in module.modules())
    loaded = data.load([path])
    assert loaded.usual.sum() == 20
    assert len(loaded.x) > 100
    assert np.abs(loaded.x).max() > 100 * np.abs(x).max()
    module.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.y, module(torch.from_numpy(loaded.x.astype(np.float32))).numpy())
    assert kanexport.record_outputs(lambda rows: rows**2, x, tmp_path / "f.npz").exists()
    with pytest.raises(OptionError, match="expected finite real numbers"):
        kanexport.record_outputs(module, np.array([["a"]]), path)
    with pytest.raises(OptionError, match="differ in their number of rows: input 20, x1 19"):
        kanexport.record_outputs(module, (x, x[1:]), path)
    with pytest.raises(OptionError, match="rows of x are a dictionary") as error:
        kanexport.record_outputs(module, ({"image": x, "meta": x},), path)
    assert "lambda image, meta: model({'image': image, 'meta': meta})" in str(error.value.hint)


def of_two_inputs() -> Any:
    """A module of a picture and facts about it, one under a name that files use; it returns logits and a class."""
    torch = pytest.importorskip("torch")
    from tests.support.torch_modules import KANLinear

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(1, 2, 3), KANLinear(8 + 3, 4)

        def forward(self, image: Any, y: Any, *, kind: Any) -> dict[str, Any]:
            seen = self.conv(image).flatten(1)
            logits = self.head(torch.cat([seen, y, kind[:, None].to(y.dtype)], dim=1))
            return {"logits": logits, "top": logits.argmax(1)}

    torch.manual_seed(1)
    return Both()


def test_a_module_of_two_inputs_is_recorded_and_verified(tmp_path: Path) -> None:
    module = of_two_inputs()
    import kanexport

    rng = np.random.default_rng(1)
    supplied = {
        "image": rng.normal(size=(12, 1, 4, 4)).astype(np.float32),
        "y": rng.normal(size=(12, 2)).astype(np.float32),
        "kind": rng.integers(0, 3, size=12),
    }
    example = (supplied["image"], supplied["y"], {"kind": supplied["kind"]})
    kanexport.record_outputs(module, supplied, tmp_path / "by_name.npz")
    path = kanexport.record_outputs(module, example, tmp_path / "outputs.npz")
    with np.load(path) as file, np.load(tmp_path / "by_name.npz") as by_name:
        assert set(file.files) == set(by_name.files) == {"image", "x.y", "kind", "y.logits", "y.top", "zone"}
        recorded = {name: file[name] for name in file.files}
        assert all((by_name[name] == values).all() for name, values in recorded.items())
    assert recorded["kind"].dtype == np.int64
    assert set(np.unique(recorded["kind"])) <= set(supplied["kind"])
    assert recorded["image"].shape[1:] == (1, 4, 4)
    result = kanexport.export(module, example, name="m", repository=tmp_path / "models", expected_outputs=path)
    assert result.manifest.claim.startswith(manifest.VERIFICATION_BASES[manifest.EXPECTED_OUTPUTS])
    assert result.manifest.verification.expected_outputs[0].rows == len(recorded["zone"])
    session = onnxruntime.InferenceSession(str(result.directory / "model.onnx"))
    usual = recorded["zone"] == "given"
    feeds = {"image": recorded["image"], "y": recorded["x.y"], "kind": recorded["kind"][:, None]}
    outputs = session.run(["logits", "top"], {name: value[usual] for name, value in feeds.items()})
    np.testing.assert_allclose(outputs[0], recorded["y.logits"][usual], atol=1e-5)
    np.testing.assert_array_equal(outputs[1][:, 0], recorded["y.top"][usual])
    np.savez(tmp_path / "fewer.npz", **{name: recorded[name] for name in recorded if name != "kind"})
    with pytest.raises(OptionError, match="has the inputs image, y, expected image, y, kind"):
        kanexport.export(module, example, name="m", repository=tmp_path, expected_outputs=tmp_path / "fewer.npz")
    module.head.base_weight.data += 0.1
    with pytest.raises(OutputsDiffer, match="the exported graph's output logits differs"):
        kanexport.export(module, example, name="m", version=2, repository=tmp_path / "models", expected_outputs=path)
