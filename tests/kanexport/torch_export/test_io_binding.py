"""Modules with several inputs or outputs, some of them integers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kanexport.errors import ExportError, ModuleRefused, OptionError
from kanexport.shared import manifest as manifests
from kanexport.torch_export import inputs
from tests.support import torch_modules as several
from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error, run
from tests.support.tiers import full
from tests.support.torch_modules import Composed, KANLinear, Waves, draw, export, names


def read(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        "tokens": rng.integers(11, size=(count, 5)),
        "mask": rng.random((count, 5)) < 0.8,
        "x": rng.normal(size=(count, 3)).astype(np.float32),
    }


def specs(tensors: tuple[manifests.TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(spec.name, spec.datatype, spec.shape) for spec in tensors]


def test_a_module_with_three_inputs_and_a_dataclass_of_outputs(tmp_path: Path) -> None:
    module = several.Reader()
    result = export(module, tuple(read(9).values()), tmp_path)
    assert specs(result.manifest.inputs) == [
        ("tokens", "INT64", (-1, 5)),
        ("mask", "BOOL", (-1, 5)),
        ("x", "FP32", (-1, 3)),
    ]
    assert specs(result.manifest.outputs) == [
        ("logits", "FP32", (-1, 3)),
        ("hidden", "FP32", (-1, 7)),
        ("best", "INT64", (-1, 1)),
    ]
    assert names(result) == ["mix", "head"]
    for count in (1, 2, 40):
        feeds = read(count)
        actual = run(result.directory / "model.onnx", feeds)
        with torch.no_grad():
            exact = module.double().eval()(*(torch.from_numpy(feeds[name]) for name in ("tokens", "mask", "x")))
        assert relative_error(actual["logits"], exact.logits.numpy()) <= OUTPUT_TOLERANCE
        assert relative_error(actual["hidden"], exact.hidden.numpy()) <= OUTPUT_TOLERANCE
        np.testing.assert_array_equal(actual["best"][:, 0], exact.best.numpy())
    config = (tmp_path / "m" / "config.pbtxt").read_text()
    assert '{ name: "tokens" data_type: TYPE_INT64 dims: [ 5 ] },\n  { name: "mask" data_type: TYPE_BOOL' in config
    assert result.manifest.shapes == ((13,), (5, 4), (7,), (11,))


@full("combination")
def test_a_name_of_an_input_among_the_outputs_and_one_number_a_row(tmp_path: Path) -> None:
    module, x, t = several.Steps(), draw(4), draw(seed=2)
    result = export(module, {"t": torch.from_numpy(t), "x": x}, tmp_path)
    assert specs(result.manifest.inputs) == [("t", "FP32", (-1, 1)), ("x", "FP32", (-1, 4))]
    assert [spec.name for spec in result.manifest.outputs] == ["x_out", "parts_y0", "parts_y1"]
    assert {f"{name}: one number per row, served as [rows, 1]" for name in ("t", "parts_y0")} <= {
        *result.manifest.notes
    }
    actual = run(result.directory / "model.onnx", {"t": t[:, None], "x": x})
    np.testing.assert_array_equal(actual["parts_y1"], x)
    np.testing.assert_allclose(actual["x_out"].sum(-1, keepdims=True), actual["parts_y0"], rtol=1e-4, atol=1e-5)


@full("combination")
def test_ids_of_tokens_stay_among_those_that_were_seen(tmp_path: Path) -> None:
    """An id of 11 or more has no embedding, and so has a negative one below -11."""
    ids = np.random.default_rng(0).integers(11, size=(4, 6))
    result = export(several.Tokens(), ids, tmp_path)
    assert specs(result.manifest.inputs) == [("x", "INT64", (-1, 6))]
    zones = {zone.name: zone.rows for zone in result.manifest.verification.zones}
    assert zones["scaled"] == zones["noise"] * 2 == 16
    assert np.array(result.manifest.reference.inputs).max() <= 10
    assert run(result.directory / "model.onnx", {"x": ids[:1]})["y"].shape == (1, 3)


@pytest.mark.parametrize(
    ("example", "kind", "words"),
    [
        (
            np.zeros((3, 4), np.complex64),
            OptionError,
            "the example is complex64; ONNX graphs of kanserve have real numbers",
        ),
        ((np.zeros((3, 4), np.float32), np.zeros((2, 1), np.float32)), OptionError, "x 3, x1 2"),
        ({"z": np.zeros((3, 4), np.float32)}, OptionError, "has no parameter 'z'"),
        ((np.zeros((3, 4), np.float32), "text"), OptionError, "input x1 of the example is str"),
        (np.full((3, 4), 2**40), OptionError, "above 2000000"),
        (np.zeros((3, 4), np.int64), ModuleRefused, "does not run on 2 rows"),
        ((np.zeros((3, 4), np.float32), np.zeros((3, 1), np.int64)), ModuleRefused, r"shapes x \[4\], x1 \[1\]"),
    ],
)
def test_examples_that_cannot_be_are_refused(example: Any, kind: type, words: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=words):
        export(KANLinear(4, 3), example, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: (y, y.sum()), "output 'y1' of the module is float64 without an axis"),
        (lambda y: {"y": y, "table": y.T}, "output 'table' of the module has 3 rows for 2"),
        (
            lambda y: torch.complex(y, y),
            "output of the module is complex128; ONNX graphs of kanserve have real numbers",
        ),
        (lambda y: (y, "text"), "output 'y1' of the module is str"),
    ],
)
def test_outputs_that_cannot_be_served_are_named(function: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=words):
        export(Composed(lambda m, x: function(m.layer(x)), layer=Waves(4, 3)), draw(4), tmp_path)


def test_examples_of_several_inputs_from_a_file(tmp_path: Path) -> None:
    path, feeds = tmp_path / "rows.npz", read(5)
    np.savez(path, **feeds)
    loaded = inputs.load(path)
    assert list(loaded) == list(feeds)
    np.testing.assert_array_equal(loaded["tokens"], feeds["tokens"])
    np.savez(path, *feeds.values())
    assert [array.dtype.kind for array in inputs.load(path)] == ["i", "b", "f"]


def waves(function: Any) -> Composed:
    """Complex weights. torch has operators for some functions of complex numbers, not for all."""
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
    return Composed(lambda m, x: function(x.to(m.weight.dtype) @ m.weight), weight=weight)


def test_complex_weights_are_exported_or_called_so(tmp_path: Path) -> None:
    x = draw(4, seed=0)
    torch.manual_seed(1)  # with other signs, torch returns infinity where the operators of ONNX return NaN
    export(waves(torch.abs), x, tmp_path / "abs")
    with pytest.raises(ModuleRefused, match="weight is complex64; ONNX graphs of kanserve have real numbers"):
        export(waves(lambda z: torch.exp(z).real), x, tmp_path / "exp")
    with pytest.raises(ModuleRefused, match="depends on the values of a tensor"):
        export(waves(lambda z: z.real if z.abs().sum() >= 0 else z.imag), x, tmp_path / "branch")
