"""Tests of `options.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kanexport.errors import OptionError
from kanexport.pipeline import Request, export
from kanexport.shared import manifest
from tests.support.small_checkpoints import chebyshev, decided, refuse, save

RNG = np.random.default_rng(12)
DEGREE = 3
STEPS = '[[step]]\nlayer = "a"\n[[step]]\nlayer = "b"\n'


def floats(*shape: int) -> Any:
    return RNG.normal(0, 0.5, size=shape).astype(np.float32)


def two(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    tensors = {"a.cheby_coeffs": floats(3, 4, DEGREE + 1), "b.jacobi_coeffs": floats(4, 2, DEGREE + 1)}
    (tmp_path / "layers.toml").write_text(STEPS)
    return save(tmp_path, tensors), tensors


def waves() -> dict[str, Any]:
    return {"wavelet_weights": floats(2, 3), "scale": 1 + np.abs(floats(2, 3)), "translation": floats(2, 3)}


def expected(tensors: dict[str, Any], x: Any) -> Any:
    """TimeKAN's layer, then JacobiKAN's own."""
    h = np.tanh(chebyshev(tensors["a.cheby_coeffs"], np.tanh(np.tanh(x))))
    values = np.stack([special.eval_jacobi(d, 1, 1, h) for d in range(DEGREE + 1)], axis=2)
    return np.einsum("bid,iod->bo", values, tensors["b.jacobi_coeffs"].astype(np.float64))


def test_a_forward_is_for_the_family_that_knows_it(tmp_path: Path) -> None:
    path, tensors = two(tmp_path)
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    request = {"path": path, "repository": tmp_path / "m", "architecture": tmp_path / "layers.toml", "force": True}
    reported = export(Request(options=("forward=timekan",), **request))
    assert reported.manifest.source.options_assumed["forward"] == "jacobikan"
    both = export(Request(options=("forward=timekan,jacobikan",), **request))
    assert "forward" not in both.manifest.source.options_assumed
    y = expected(tensors, x.astype(np.float64))
    assert decided(path, x, y, architecture=STEPS).manifest.source.options_decided["forward"] == "timekan"
    given = decided(path, x, y, "forward=timekan", architecture=STEPS)
    assert given.manifest.verification_basis == manifest.EXPECTED_OUTPUTS
    with pytest.raises(OptionError, match=r"'timekanx', which no layer .* has") as caught:
        export(Request(options=("forward=timekanx",), **request))
    assert "timekan" in caught.value.hint


def test_a_forward_for_many_files_is_for_those_that_know_it(tmp_path: Path) -> None:
    coefficients = {"chebykan": {"cheby_coeffs": floats(3, 2, 4)}, "jacobikan": {"jacobi_coeffs": floats(3, 2, 4)}}
    for family, tensors in {**coefficients, "wav-kan": waves()}.items():
        (tmp_path / family).mkdir()
        path = save(tmp_path / family, tensors)
        request = Request(path=path, repository=tmp_path / "m", name=family, options=("forward=timekan",), shared=True)
        source = export(request).manifest.source
        if family == "chebykan":
            assert (source.options_given, "forward" in source.options_assumed) == ({"forward": "timekan"}, False)
        else:
            assert (source.options_given, source.options_assumed["forward"]) == ({}, family)
    # A forward that nobody knows is not ignored.
    assert isinstance(refuse(tmp_path, waves(), "forward=timekan"), OptionError)
    export(Request(path=save(tmp_path, waves()), repository=tmp_path / "m", options=("forward=wav-kan",)))
