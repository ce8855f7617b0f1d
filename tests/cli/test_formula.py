"""`kanserve formula`: what is printed computes what is served."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport import manifest
from tests.cli.running import Server, document, kanserve, program, serving
from tests.formula_text import columns
from tests.kanexport.conftest import PykanCheckpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "checkpoints" / "pykan-hello-symbolic" / "model"


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
    found = document(kanserve("formula", name, "--url", server.url, "--json", "--digits", "17"))
    x = np.random.default_rng(1).uniform(-1, 1, size=(50, len(found["inputs"])))
    x = x if name == "own" else x.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    kanserve("infer", name, "--url", server.url, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    served = np.load(tmp_path / "y.npy")
    assert [line["name"] for line in found["formulas"]] == [f"y{at}" for at in range(served.shape[1])]
    for at, line in enumerate(found["formulas"]):
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


def test_a_module_around_symbolic_layers_is_no_formula(server: Server) -> None:
    done = kanserve("formula", "module", "--url", server.url)
    assert done.returncode == 2
    assert "what stands around them" in done.stderr


def test_what_cannot_be_answered_is_wrong_input(server: Server) -> None:
    assert kanserve("formula", "nobody", "--url", server.url).returncode == 2
    for digits in ("0", "18", "many"):
        assert kanserve("formula", "hello", "--url", server.url, "--digits", digits).returncode == 2
    assert kanserve("formula", "hello", "--url", "127.0.0.1:1", "--timeout", "2").returncode == 1
