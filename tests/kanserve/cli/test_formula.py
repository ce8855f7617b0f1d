"""`kanserve formula`: the printed formula computes the served outputs."""

from pathlib import Path

import numpy as np
import pytest

from kanexport.shared import formula_printer
from kanserve.cli import formula
from tests.support import formula_parsers
from tests.support.command_line import Server, wrong_refusals
from tests.support.formula_parsers import columns


def rows(count: int, inputs: int, file: Path) -> np.ndarray:
    x = np.random.default_rng(1).uniform(-1, 1, size=(count, inputs)).astype(np.float32)
    np.save(file, x)
    return x


def outputs(server: Server, name: str, file: Path) -> np.ndarray:
    server.ask("infer", name, "--input", file, "--output", file.with_name("y.npy"))
    return np.load(file.with_name("y.npy"))


def test_what_is_printed_computes_what_is_served(server: Server, tmp_path: Path) -> None:
    (line,) = server.ask("formula", "hello", "--digits", "17")["formulas"]
    y = columns(line["expression"], rows(50, 2, tmp_path / "x.npy"))
    served = outputs(server, "hello", tmp_path / "x.npy")
    assert (line["name"], served.shape) == ("y0", (50, 1))
    np.testing.assert_allclose(y, served[:, 0], rtol=0, atol=1e-5 * np.abs(y).max())


def edges(server: Server, name: str, layer: int, file: Path) -> np.ndarray:
    """[rows, I, O] on the rows in a file."""
    target = file.with_name("edges.npz")
    server.ask("edges", name, "--input", file, "--layer", layer, "--output", target)
    with np.load(target) as result:
        return np.asarray(result[f"layer{layer}_edges"], np.float64)


def test_in_part_it_computes_what_is_served_with_the_served_edges(server: Server, tmp_path: Path) -> None:
    result = server.ask("formula", "mixed", "--digits", "17", "--partial", "--latex")
    x = rows(50, len(result["inputs"]), tmp_path / "x.npy")
    served = outputs(server, "mixed", tmp_path / "x.npy")
    values = edges(server, "mixed", 1, tmp_path / "x.npy")[:, 2, 0]
    assert result["numeric_edges"] == [[1, 2, 0]]

    def call(v: np.ndarray) -> np.ndarray:
        """The edge's value on these rows for any argument. The curves show that the argument is its node."""
        return values + 0 * v

    page = {r"\varphi_{1,2,0}": call, **{f"x_{{{at}}}": x[:, at].astype(np.float64) for at in range(x.shape[1])}}
    (line,) = result["formulas"]
    for y in (columns(line["expression"], x, phi_1_2_0=call), formula_parsers.compute_latex(line["latex"], page)):
        np.testing.assert_allclose(y, served[:, 0], rtol=0, atol=1e-5 * np.abs(served).max())


def test_a_numeric_edge_of_a_formula_is_its_curve(server: Server, tmp_path: Path) -> None:
    """phi_1_2_0 of what the formula gives it is what the curve has there."""
    (line,) = server.ask("formula", "mixed", "--partial")["formulas"]
    x = rows(40, 2, tmp_path / "x.npy")
    served = edges(server, "mixed", 1, tmp_path / "x.npy")[:, 2, 0]
    target = tmp_path / "curve.npz"
    which = ("--layer", "1", "--source", "2", "--destination", "0", "--points", "1000")
    server.ask("curves", "mixed", *which, "--output", target)
    with np.load(target) as curve:
        grid, heights = curve["x"].reshape(-1), curve["phi"].reshape(-1)
    requested: list[np.ndarray] = []
    columns(line["expression"], x, phi_1_2_0=lambda v: requested.append(v) or v)
    inside = (requested[0] > grid[0]) & (requested[0] < grid[-1])
    assert inside.sum() > 5
    result = np.interp(requested[0][inside], grid, heights)
    np.testing.assert_allclose(result, served[inside], rtol=0, atol=1e-4 * np.abs(served).max())


def test_nodes_between_can_be_shown_and_numeric_edges_are_explained(server: Server) -> None:
    *lines, last = server.shown("formula", "mixed", "--partial", "--by-layer").splitlines()
    assert [line.partition(" = ")[0] for line in lines if " = " in line] == ["h1_0", "h1_1", "h1_2", "y0"]
    assert last.startswith("# phi_L_I_J: the numeric edge of layer L from source I")


def test_what_is_too_long_or_no_line_says_what_helps(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"formula hello --only h1_1": "pass --by-layer for hidden nodes", "formula hello --only y7": "formulas: y0"}
    assert wrong_refusals(cases, "--url", server.url) == []
    monkeypatch.setattr(formula_printer, "LIMIT", 9)
    hints = {
        "formula hello": "pass --by-layer for one formula per node, and --only NAME for one of them",
        "formula hello --by-layer": "plot the edges of a node: `kanserve curves hello --layer L --destination J`",
    }
    assert wrong_refusals(hints, "--url", server.url) == []
    monkeypatch.setattr(formula, "HYBRID", "pykan")
    assert wrong_refusals({"formula hello": "error[formula-of-module]"}, "--url", server.url) == []


def test_what_cannot_be_served_is_wrong_input(server: Server) -> None:
    cases = {
        "formula mixed": ("edge (1,2,0) is numeric (bspline, silu)", "pass --partial, which names numeric edges"),
        "formula nobody": "unknown model",
        **{f"formula hello --digits {digits}": "--digits" for digits in ("0", "18", "many")},
    }
    assert wrong_refusals(cases, "--url", server.url) == []
    refused = wrong_refusals({"formula hello": "no server at"}, "--url", "127.0.0.1:1", "--timeout", "2", code=1)
    assert refused == []
