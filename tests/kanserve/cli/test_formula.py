"""`kanserve formula`: the printed formula computes the served outputs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.contract import manifest
from tests.kanexport.conftest import PykanCheckpoint
from tests.support import latex_parser
from tests.support.command_line import Server, document, kanserve, program, serving
from tests.support.formula_parser import columns

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints" / "pykan-hello-symbolic" / "model"


def symbolic(width: list[Any], names: list[str], **settings: Any) -> PykanCheckpoint:
    """Every edge symbolic, by turns with the functions named; affine values on all nodes."""
    toy = PykanCheckpoint(width, **settings)
    depth = len(width) - 1
    for at in range(depth):
        toy.tensors[f"act_fun.{at}.mask"][:] = 0
        n, m = toy.tensors[f"act_fun.{at}.mask"].shape
        for i, j in np.ndindex(n, m):
            toy.symbolic(at, i, j, names[(i + j + at) % len(names)], toy.rng.uniform(0.4, 0.9, size=4))
        for kind in ("node", "subnode"):
            for part, low in (("scale", 0.5), ("bias", -0.2)):
                values = toy.tensors[f"{kind}_{part}_{at}"]
                values[:] = toy.rng.uniform(low, low + 0.5, size=values.shape)
    return toy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("formula")

    def add(name: str, path: Path, *arguments: str) -> None:
        document(kanserve("export", path, "--repository", folder / "models", "--name", name, "--json", *arguments))

    add("hello", GOLDEN)
    add("named", GOLDEN, "--features", "petal_length (cm),x&y", "--classes", "area")
    add("numeric", GOLDEN.parent.parent / "pykan-hello-adapted" / "model")
    add("long", PykanCheckpoint([90, 80, 1]).write(folder))
    products = symbolic([3, (2, 2), (1, 1)], ["sin", "x^2", "x", "tanh"], arity=[[], [2, 3], [2]])
    add("products", products.write(folder), "--option", "input_id=0,3,2", "--option", "n_inputs=5")
    own = symbolic([2, 2, 1], ["xsinx", "exp", "log"], dtype="float64")
    add("own", own.write(folder), "--function", "xsinx=x*sin(3*x)", "--dtype", "float64")
    guarded = symbolic([2, 2], ["log", "1/x^3", "arcsin", "tan"])
    add("guarded", guarded.write(folder), "--option", "singularity=avoid")
    mixed = symbolic([2, 3, 1], ["sin"])
    mixed.tensors["act_fun.1.mask"][2, 0] = 1
    add("mixed", mixed.write(folder))
    shutil.copytree(folder / "models" / "hello", folder / "models" / "module")
    place = folder / "models" / "module" / "1"
    known = manifest.load(place)
    hybrid = dataclasses.replace(known, name="module", source=dataclasses.replace(known.source, family="hybrid"))
    (place / manifest.FILE_NAME).write_bytes(manifest.dumps(hybrid))
    config = folder / "models" / "module" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "hello"', 'name: "module"'))
    with serving(folder / "models", folder / "log") as running:
        yield running


@pytest.mark.parametrize(
    ("name", "tolerance"), [("hello", 1e-5), ("products", 1e-6), ("own", 1e-13), ("guarded", 1e-5)]
)
def test_what_is_printed_computes_what_is_served(server: Server, tmp_path: Path, name: str, tolerance: float) -> None:
    result = document(kanserve("formula", name, "--url", server.url, "--json", "--digits", "17"))
    x = np.random.default_rng(1).uniform(-1, 1, size=(50, len(result["inputs"])))
    x = x if name == "own" else x.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    kanserve("infer", name, "--url", server.url, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    served = np.load(tmp_path / "y.npy")
    assert [line["name"] for line in result["formulas"]] == [f"y{at}" for at in range(served.shape[1])]
    for at, line in enumerate(result["formulas"]):
        y = columns(line["expression"], x)
        np.testing.assert_allclose(y, served[:, at], rtol=0, atol=tolerance * np.abs(y).max())


def test_the_golden_model_is_the_function_it_was_trained_on(server: Server) -> None:
    done = program("formula", "hello", "--url", server.url, "--digits", "3")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("y0 = ")
    assert "*exp(" in line
    assert "3.14*x0" in line
    x = np.random.default_rng(2).uniform(-1, 1, size=(100, 2))
    expected = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    assert np.abs(columns(line.removeprefix("y0 = "), x) - expected).max() < 0.05 * expected.max()


def test_nodes_between_can_be_shown(server: Server) -> None:
    done = kanserve("formula", "products", "--url", server.url, "--by-layer")
    names = [line.partition(" = ")[0] for line in done.stdout.splitlines()]
    assert names == ["h1_0", "h1_1", "h1_2", "h1_3", "y0", "y1"]
    assert "x3" in done.stdout  # the second input that the network reads
    assert "x1" not in done.stdout


def test_a_numeric_edge_is_refused_by_name(server: Server) -> None:
    done = kanserve("formula", "mixed", "--url", server.url)
    assert done.returncode == 2
    assert "edge (1,2,0) is numeric (bspline, silu)" in done.stderr


def edges(server: Server, tmp_path: Path, name: str, layer: int) -> np.ndarray:
    """[rows, I, O] on the rows in x.npy."""
    target = tmp_path / "edges.npz"
    arguments = ("--input", tmp_path / "x.npy", "--layer", layer, "--output", target)
    kanserve("edges", name, "--url", server.url, *map(str, arguments))
    with np.load(target) as result:
        return np.asarray(result[f"layer{layer}_edges"], np.float64)


@pytest.mark.parametrize("name", ["mixed", "numeric"])
def test_in_part_it_computes_what_is_served_with_the_served_edges(server: Server, tmp_path: Path, name: str) -> None:
    result = document(
        kanserve("formula", name, "--url", server.url, "--json", "--digits", "17", "--partial", "--latex")
    )
    x = np.random.default_rng(1).uniform(-1, 1, size=(50, len(result["inputs"]))).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    kanserve("infer", name, "--url", server.url, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    served = np.load(tmp_path / "y.npy")
    values = {at: edges(server, tmp_path, name, at) for at in {edge[0] for edge in result["numeric_edges"]}}
    assert result["numeric_edges"] == ([[1, 2, 0]] if name == "mixed" else sorted(result["numeric_edges"]))
    # A numeric edge's value on these rows, whatever it is given: that it is given its node is what curves show.
    calls = {(at, i, j): lambda v, at=at, i=i, j=j: values[at][:, i, j] + 0 * v for at, i, j in result["numeric_edges"]}
    python = {f"phi_{at}_{i}_{j}": call for (at, i, j), call in calls.items()}
    page = {rf"\varphi_{{{at},{i},{j}}}": call for (at, i, j), call in calls.items()}
    page |= {f"x_{{{at}}}": x[:, at].astype(np.float64) for at in range(x.shape[1])}
    for at, line in enumerate(result["formulas"]):
        for y in (columns(line["expression"], x, **python), latex_parser.compute(line["latex"], page)):
            np.testing.assert_allclose(y, served[:, at], rtol=0, atol=1e-5 * np.abs(served).max())


def test_a_numeric_edge_of_a_formula_is_its_curve(server: Server, tmp_path: Path) -> None:
    """phi_1_2_0 of what the formula gives it is what the curve has there."""
    (line,) = document(kanserve("formula", "mixed", "--url", server.url, "--json", "--partial"))["formulas"]
    x = np.random.default_rng(2).uniform(-1, 1, size=(40, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    served = edges(server, tmp_path, "mixed", 1)[:, 2, 0]
    target = tmp_path / "curve.npz"
    which = ("--layer", "1", "--source", "2", "--destination", "0", "--points", "1000")
    kanserve("curves", "mixed", "--url", server.url, *which, "--output", str(target))
    with np.load(target) as curve:
        grid, heights = curve["x"].reshape(-1), curve["phi"].reshape(-1)
    requested: list[np.ndarray] = []
    columns(line["expression"], x, phi_1_2_0=lambda v: requested.append(v) or v)
    inside = (requested[0] > grid[0]) & (requested[0] < grid[-1])
    assert inside.sum() > 5
    result = np.interp(requested[0][inside], grid, heights)
    np.testing.assert_allclose(result, served[inside], rtol=0, atol=1e-4 * np.abs(served).max())


def test_a_page_has_the_names_that_people_gave(server: Server) -> None:
    done = kanserve("formula", "named", "--url", server.url, "--latex", "--digits", "3")
    assert done.stdout.startswith(r"\text{area} = ")
    assert r"\text{petal\_length\ (cm)}" in done.stdout
    assert "%" not in done.stdout  # no edge is numeric: nothing is to be said of any
    part = kanserve("formula", "mixed", "--url", server.url, "--partial")
    assert part.stdout.splitlines()[-1].startswith("# phi_L_I_J: the numeric edge of layer L from source I")
    named = kanserve("formula", "named", "--url", server.url, "--only", "area", "--json")
    assert len(document(named)["formulas"]) == 1


def test_what_is_too_long_says_how_to_narrow_it(server: Server) -> None:
    done = kanserve("formula", "long", "--url", server.url, "--partial")
    assert done.returncode == 2
    assert "more than 100000 characters" in done.stderr
    assert "pass --by-layer for one formula per node, and --only NAME for one of them" in done.stderr
    item = kanserve("formula", "long", "--url", server.url, "--partial", "--by-layer", "--only", "h1_1")
    assert item.stdout.startswith("h1_1 = phi_0_0_1(x0)")
    for arguments, words in (
        (("--only", "h1_1"), "pass --by-layer for hidden nodes"),
        (("--only", "y7"), "formulas: y0"),
    ):
        refused = kanserve("formula", "long", "--url", server.url, "--partial", *arguments)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    hint = kanserve("formula", "mixed", "--url", server.url).stderr
    assert "pass --partial, which names numeric edges" in hint


def test_a_module_around_symbolic_layers_is_no_formula(server: Server) -> None:
    done = kanserve("formula", "module", "--url", server.url)
    assert done.returncode == 2
    assert "error[formula-of-module]" in done.stderr


def test_what_cannot_be_answered_is_wrong_input(server: Server) -> None:
    assert kanserve("formula", "nobody", "--url", server.url).returncode == 2
    for digits in ("0", "18", "many"):
        assert kanserve("formula", "hello", "--url", server.url, "--digits", digits).returncode == 2
    assert kanserve("formula", "hello", "--url", "127.0.0.1:1", "--timeout", "2").returncode == 1
