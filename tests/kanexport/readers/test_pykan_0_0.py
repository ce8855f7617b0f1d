"""pykan 0.0: bare state dicts with one grid per edge, compared with the formula in loops."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from kanexport.cli import export_command
from kanexport.errors import OptionError, UnknownFunction
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Tensors, exported, reading, refuse, save, silu, spline, under

FUNCTIONS = {"sin": math.sin, "x^2": lambda u: u * u, "cosh": math.cosh, "sigmoid": lambda u: 1 / (1 + math.exp(-u))}


def state(*widths: int, k: int = 3, g: int = 4, per_edge: bool = True, dtype: str = "float32") -> Tensors:
    """`per_edge`: every edge has separate knots; otherwise those of its source, as training leaves them."""
    rng = np.random.default_rng(0)
    tensors: Tensors = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        gaps = np.broadcast_to(rng.uniform(0.2, 0.9, size=(m if per_edge else 1, n, g)), (m, n, g))
        knots = np.cumsum(np.concatenate([np.full((m, n, 1), -1.2), gaps], axis=2), axis=2)
        tensors |= {
            f"biases.{at}.weight": rng.normal(size=(1, m)),
            f"act_fun.{at}.grid": knots.reshape(m * n, g + 1),
            f"act_fun.{at}.coef": rng.normal(size=(m * n, g + k)),
            f"act_fun.{at}.scale_base": rng.normal(size=m * n),
            f"act_fun.{at}.scale_sp": rng.normal(size=m * n),
            f"act_fun.{at}.mask": np.ones(m * n),
            f"symbolic_fun.{at}.mask": np.zeros((m, n)),
            f"symbolic_fun.{at}.affine": np.zeros((m, n, 4)),
        }
    return {key: value.astype(dtype) for key, value in tensors.items()}


def edges(tensors: Tensors, at: int, x: list[float], names: dict[tuple[int, int, int], str]) -> np.ndarray:
    """[n, m] of one row, by the flat index e = j n + i."""
    part, symbolic = under(tensors, f"act_fun.{at}."), under(tensors, f"symbolic_fun.{at}.")
    m = tensors[f"biases.{at}.weight"].shape[1]
    n, count = len(part["mask"]) // m, part["coef"].shape[1]
    k = count - part["grid"].shape[1] + 1
    phi = np.zeros((n, m))
    for j, i in np.ndindex(m, n):
        e = j * n + i
        knots = part["grid"][e].tolist()
        step = (knots[-1] - knots[0]) / (len(knots) - 1)
        for _ in range(k):
            knots = [knots[0] - step, *knots, knots[-1] + step]
        curve = sum(part["coef"][e, c] * spline(x[i], knots, c, k) for c in range(count))
        phi[i, j] = part["mask"][e] * (part["scale_base"][e] * silu(x[i]) + part["scale_sp"][e] * curve)
        if (at, i, j) in names:
            a, b, c, d = symbolic["affine"][j, i]
            phi[i, j] += symbolic["mask"][j, i] * (c * FUNCTIONS[names[at, i, j]](a * x[i] + b) + d)
    return phi


def read(folder: Path, tensors: Tensors, *pairs: str, symbolic: tuple[str, ...] = ()) -> Kan:
    result = reading(save(folder, tensors), *pairs, symbolic=symbolic)
    assert result.family == "pykan-0.0"
    return result.kan


def check(kan: Kan, tensors: Tensors, names: dict[tuple[int, int, int], str] | None = None) -> None:
    rows = np.random.default_rng(5).uniform(-3, 3, size=(12, kan.n_inputs))
    trace = float64_reference.evaluate(kan, rows)
    for at, layer in enumerate(kan.layers):
        expected = np.array([edges(tensors, at, row, names or {}) for row in rows.tolist()])
        actual = np.concatenate([part for _, part, _ in float64_reference.edges(layer, trace.inputs[at])])
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        rows = expected.sum(axis=1) + tensors[f"biases.{at}.weight"].astype(float)
    np.testing.assert_allclose(trace.y, rows, rtol=0, atol=1e-11 * np.abs(rows).max())


@pytest.mark.parametrize("per_edge", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_models_of_every_degree(tmp_path: Path, k: int, per_edge: bool) -> None:
    tensors = state(3, 2, 4, k=k, per_edge=per_edge)
    kan = read(tmp_path, tensors)
    check(kan, tensors)
    assert reading(tmp_path / "model.safetensors").assumed == {"base_fun": "silu"}
    # As many spline terms as a source has different grids, and the base.
    assert [len(layer.terms) for layer in kan.layers] == ([3, 5] if per_edge else [2, 2])


def test_some_edges_may_share_a_grid(tmp_path: Path) -> None:
    tensors = state(3, 4)
    tensors["act_fun.0.grid"][[4, 10]] = tensors["act_fun.0.grid"][1]  # source 1: j = 0, 1 and 3
    tensors["act_fun.0.grid"][[0, 3, 6, 9]] = tensors["act_fun.0.grid"][0]  # source 0: all
    kan = read(tmp_path, tensors)
    check(kan, tensors)
    assert len(kan.layers[0].terms) == 4 + 1


def with_symbols() -> Tensors:
    tensors = state(2, 3, 1)
    rng = np.random.default_rng(3)
    for at, i, j in ((0, 1, 0), (0, 0, 2), (1, 2, 0)):
        tensors[f"symbolic_fun.{at}.mask"][j, i] = 1
        tensors[f"symbolic_fun.{at}.affine"][j, i] = rng.normal(size=4)
        tensors[f"act_fun.{at}.mask"][j * (2, 3)[at] + i] = 0
    return tensors


NAMES = {(0, 1, 0): "sin", (0, 0, 2): "cosh", (1, 2, 0): "x^2"}
GIVEN = ("0,1,0=sin", "0, 0, 2 = cosh", "1,2,0=x^2")


def test_symbolic_edges_take_their_names_from_the_user(tmp_path: Path) -> None:
    tensors = with_symbols()
    check(read(tmp_path, tensors, symbolic=GIVEN), tensors, NAMES)
    manifest = exported(save(tmp_path, tensors), symbolic=GIVEN)
    edges = [(e.source, e.destination, e.function) for e in manifest.layers[0].symbolic]
    assert edges == [(1, 0, "sin"), (0, 2, "cosh")]
    assert any("lock" in note for note in manifest.notes)
    given = manifest.source.options_given
    assert given == {"symbolic 0,1,0": "sin", "symbolic 0,0,2": "cosh", "symbolic 1,2,0": "x^2"}


def test_the_command_takes_names_and_functions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = with_symbols()
    supplied = [f"--symbolic={text}" for text in ("0,1,0=sin", "0,0,2=mine", "1,2,0=mine")]
    folder = tmp_path / "models"
    arguments = [str(save(tmp_path, tensors)), "--repository", str(folder), *supplied, "--function", "mine=x**2"]
    assert export_command.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["given"]["function mine"] == "x**2"
    assert export_command.main([*arguments[:-2], "--force"]) == 2
    assert "define it with --function mine=..." in capsys.readouterr().err


def test_edges_without_a_name_are_listed_and_the_option_told(tmp_path: Path) -> None:
    refuse(
        tmp_path,
        with_symbols(),
        symbolic=GIVEN[2:],
        kind=OptionError,
        said=["2 symbolic edges", "(0,1,0), (0,0,2)"],
        hint="--symbolic 0,1,0=NAME",
    )


def test_symbolic_edges_can_be_off(tmp_path: Path) -> None:
    tensors = with_symbols()
    kan = read(tmp_path, tensors, "symbolic_enabled=false")
    check(kan, tensors)
    assert "3 symbolic edges are off" in kan.notes[1]
    refuse(tmp_path, tensors, "symbolic_enabled=maybe", kind=OptionError)


def test_a_masked_edge_with_a_name_still_gives_nan_where_its_function_does(tmp_path: Path) -> None:
    tensors = state(2, 1)
    tensors["symbolic_fun.0.affine"][0, 1] = (1, 0, 1, 0)
    kan = read(tmp_path, tensors, symbolic=("0,1,0=log",))
    y = float64_reference.evaluate(kan, np.array([[0.5, 0.5], [0.5, -0.5]])).y[:, 0]
    assert np.isnan(y).tolist() == [False, True]


def test_a_value_that_is_not_finite_reaches_every_sum(tmp_path: Path) -> None:
    tensors = state(2, 3)
    tensors["act_fun.0.mask"][:] = 0
    kan = read(tmp_path, tensors)
    y = float64_reference.evaluate(kan, np.array([[np.nan, 0], [0, np.inf], [-np.inf, 0]])).y
    assert np.isnan(y).all()


WRONG_SYMBOLS = {
    "0,1=sin": "invalid --symbolic",
    "0,1,0": "invalid --symbolic",
    "0,1,0=": "invalid --symbolic",
    "a,b,c=sin": "invalid --symbolic",
    "0,1,-1=sin": "invalid --symbolic",
    "9999999999,1,0=sin": "invalid --symbolic",
    "5,1,0=sin": "no such symbolic edge",
    "0,7,0=sin": "no such symbolic edge",
}


def test_symbols_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for text, said in WRONG_SYMBOLS.items():
        refuse(tmp_path, with_symbols(), symbolic=(*GIVEN, text), kind=OptionError, said=said)
    refuse(tmp_path, with_symbols(), symbolic=(*GIVEN, "0,1,00=cos"), said="twice")
    refuse(
        tmp_path,
        with_symbols(),
        symbolic=("0,1,0=besselj", *GIVEN[1:]),
        kind=UnknownFunction,
        said="edge (0,1,0) uses the symbolic function 'besselj', which is not in the table of pykan",
    )


@pytest.mark.parametrize("prefix", ["module.", "model.kan."])
def test_a_model_may_lie_under_a_prefix(tmp_path: Path, prefix: str) -> None:
    tensors = state(2, 3, 2)
    moved = {prefix + key: value for key, value in tensors.items()}
    check(read(tmp_path, moved), tensors)
    refuse(tmp_path, moved | {"other.w": np.ones(2, dtype=np.float32)}, hint=f"--option prefix={prefix}")


def test_grids_that_collapse_or_are_too_short_are_refused(tmp_path: Path) -> None:
    tensors = state(2, 2)
    tensors["act_fun.0.grid"][2, 3] = tensors["act_fun.0.grid"][2, 2]
    refuse(tmp_path, tensors, said="not strictly increasing")
    tensors = state(2, 2)
    tensors["act_fun.0.coef"] = tensors["act_fun.0.coef"][:, :4]
    refuse(tmp_path, tensors, said="k >= 1")
