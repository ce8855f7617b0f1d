"""`kanserve formula`: the printed formula computes the served outputs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kanexport.contract import manifest
from tests.kanexport.conftest import PykanCheckpoint
from tests.support import formula_parsers
from tests.support.command_line import Server, serving, wrong_refusals
from tests.support.exports import exported
from tests.support.formula_parsers import columns
from tests.support.named_models import HELLO, symbolic
from tests.support.tiers import full


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of symbolic networks of other kinds."""
    folder = tmp_path_factory.mktemp("formula")
    models = folder / "models"
    exported(HELLO, "named", "--features", "petal_length (cm),x&y", "--classes", "area", into=models)
    exported(PykanCheckpoint([90, 80, 1]).write(folder), "long", into=models)
    products = symbolic([3, (2, 2), (1, 1)], ["sin", "x^2", "x", "tanh"], arity=[[], [2, 3], [2]])
    exported(products.write(folder), "products", "--option", "input_id=0,3,2", "--option", "n_inputs=5", into=models)
    own = symbolic([2, 2, 1], ["xsinx", "exp", "log"], dtype="float64")
    exported(own.write(folder), "own", "--function", "xsinx=x*sin(3*x)", "--dtype", "float64", into=models)
    guarded = symbolic([2, 2], ["log", "1/x^3", "arcsin", "tan"])
    exported(guarded.write(folder), "guarded", "--option", "singularity=avoid", into=models)
    shutil.copytree(models / "named", models / "module")
    place = models / "module" / "1"
    known = manifest.load(place)
    hybrid = dataclasses.replace(known, name="module", source=dataclasses.replace(known.source, family="hybrid"))
    (place / manifest.FILE_NAME).write_bytes(manifest.dumps(hybrid))
    config = models / "module" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "named"', 'name: "module"'))
    with serving(models, folder / "log") as running:
        yield running


def rows(count: int, inputs: int, file: Path, dtype: type = np.float32) -> np.ndarray:
    """Rows in a file."""
    x = np.random.default_rng(1).uniform(-1, 1, size=(count, inputs)).astype(dtype)
    np.save(file, x)
    return x


def outputs(server: Server, name: str, file: Path) -> np.ndarray:
    """The outputs of the server for the rows in a file."""
    server.ask("infer", name, "--input", file, "--output", file.with_name("y.npy"))
    return np.load(file.with_name("y.npy"))


def computed(server: Server, name: str, file: Path, tolerance: float) -> None:
    """The formulas of a model compute what it serves."""
    result = server.ask("formula", name, "--digits", "17")
    x = rows(50, len(result["inputs"]), file, np.float64 if name == "own" else np.float32)
    served = outputs(server, name, file)
    assert [line["name"] for line in result["formulas"]] == [f"y{at}" for at in range(served.shape[1])]
    for at, line in enumerate(result["formulas"]):
        y = columns(line["expression"], x)
        np.testing.assert_allclose(y, served[:, at], rtol=0, atol=tolerance * np.abs(y).max())


def test_what_is_printed_computes_what_is_served(server: Server, tmp_path: Path) -> None:
    computed(server, "hello", tmp_path / "x.npy", 1e-5)


@full("combination")
@pytest.mark.parametrize(("name", "tolerance"), [("products", 1e-6), ("own", 1e-13), ("guarded", 1e-5)])
def test_products_and_own_functions_compute_what_is_served(
    many: Server, tmp_path: Path, name: str, tolerance: float
) -> None:
    computed(many, name, tmp_path / "x.npy", tolerance)


def test_the_golden_model_is_the_function_it_was_trained_on(server: Server) -> None:
    (line,) = server.shown("formula", "hello", "--digits", "3").splitlines()
    assert line.startswith("y0 = ")
    assert "*exp(" in line
    assert "3.14*x0" in line
    x = np.random.default_rng(2).uniform(-1, 1, size=(100, 2))
    expected = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    assert np.abs(columns(line.removeprefix("y0 = "), x) - expected).max() < 0.05 * expected.max()


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


@full("combination")
def test_a_page_has_the_names_that_people_gave(many: Server) -> None:
    text = many.shown("formula", "named", "--latex", "--digits", "3")
    assert text.startswith(r"\text{area} = ")
    assert r"\text{petal\_length\ (cm)}" in text
    assert "%" not in text  # no edge is numeric: nothing is to be said of any
    assert len(many.ask("formula", "named", "--only", "area")["formulas"]) == 1


@full("combination")
def test_what_is_too_long_says_how_to_narrow_it(many: Server) -> None:
    text = many.shown("formula", "long", "--partial", "--by-layer", "--only", "h1_1")
    assert text.startswith("h1_1 = phi_0_0_1(x0)")
    cases = {
        "formula long --partial": "more than 100000 characters\n  help: pass --by-layer for one formula per node, and "
        "--only NAME for one of them",
        "formula long --partial --only h1_1": "pass --by-layer for hidden nodes",
        "formula long --partial --only y7": "formulas: y0",
        "formula module": "error[formula-of-module]",
    }
    assert wrong_refusals(cases, "--url", many.url) == []


def test_what_cannot_be_answered_is_wrong_input(server: Server) -> None:
    cases = {
        "formula mixed": ("edge (1,2,0) is numeric (bspline, silu)", "pass --partial, which names numeric edges"),
        "formula nobody": "unknown model",
        **{f"formula hello --digits {digits}": "--digits" for digits in ("0", "18", "many")},
    }
    assert wrong_refusals(cases, "--url", server.url) == []
    refused = wrong_refusals({"formula hello": "no server at"}, "--url", "127.0.0.1:1", "--timeout", "2", code=1)
    assert refused == []
