"""An archive returns the exact network, and damaged ones are rejected."""

import dataclasses
import json
import random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from kanexport.errors import CheckpointError
from kanexport.formats import safetensors
from kanexport.functions.elementwise import Unary
from kanexport.functions.expression import function
from kanexport.functions.regularized import avoiding
from kanexport.ir import archive
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Elementwise
from kanexport.lowering import lower
from tests.support import basis_examples
from tests.support.conformance import check_each
from tests.support.golden_cases import cases, network
from tests.support.tiers import spread

CASES = [case.name for case in cases() if "hybrid" not in case.name]


def of_basis(basis: Any) -> Kan:
    """A network with one layer of 3 sources and 2 destinations."""
    coef = np.random.default_rng(0).normal(size=(3, 2, basis.functions))
    layer = Layer((BasisTerm(basis, coef),), np.ones((3, 2)), np.zeros(2), np.zeros((3, 2), dtype=bool))
    return Kan(3, (layer,))


def same(one: Any, other: Any) -> bool:
    """Whether two parts of a network have equal values, and the same classes and types of arrays."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Unary):
        return (one.name, one.expression, one.recipe) == (other.name, other.expression, other.recipe)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


@spread("name", CASES, 6)
def test_a_golden_network_and_its_graphs_are_the_same_after_the_archive(name: str) -> None:
    kan = network(name)
    again, facts = archive.loads(archive.dumps(kan, {"dtype": "float32"}))
    assert same(again, kan)
    assert facts == {"dtype": "float32"}
    assert lower.lower(again, "float32").model == lower.lower(kan, "float32").model


def check_same(basis: Any) -> None:
    kan = of_basis(basis)
    assert same(archive.loads(archive.dumps(kan, {}))[0], kan)


def test_every_basis_is_the_same_after_the_archive() -> None:
    check_each(check_same, [basis for name in basis_examples.names() for basis in basis_examples.examples(name)])


def test_functions_come_from_their_recipes() -> None:
    functions = [function("mine", "x*sin(x) + 1"), avoiding("log", 7.5)]
    edges = tuple(SymbolicEdge(0, at, made, 1.1, 0.2, -3.0, 0.1, 1.0) for at, made in enumerate(functions))
    plain = of_basis(basis_examples.examples("bspline")[0]).layers[0]
    kan = Kan(3, (dataclasses.replace(plain, symbolic=edges, name="ü"),), dtype="float64", notes=("a note",))
    again = archive.loads(archive.dumps(kan, {}))[0]
    assert same(again, kan)
    x = np.linspace(-2, 2, 10)
    for edge, made in zip(again.layers[0].symbolic, functions, strict=True):
        assert np.array_equal(edge.function.evaluate(x), made.evaluate(x))


def test_a_function_without_a_recipe_cannot_be_archived() -> None:
    kan = of_basis(basis_examples.examples("bspline")[0])
    step = Elementwise(Unary("own", lambda x: x, lambda g, x: x))
    kan = dataclasses.replace(kan, layers=(dataclasses.replace(kan.layers[0], pre_steps=(step,)),))
    with pytest.raises(archive.NotArchivable, match="own"):
        archive.dumps(kan, {})


def test_other_programs_read_the_file() -> None:
    kan = network("pykan-hello-adapted")
    data = archive.dumps(kan, {})
    tensors = load(data)
    assert set(tensors) == set(safetensors.read(data))
    assert any(np.array_equal(array, kan.layers[0].terms[0].coef) for array in tensors.values())


def test_a_large_network_of_equal_values_is_the_same_after_the_archive() -> None:
    side = 800
    layer = Layer(
        (BasisTerm(basis_examples.examples("activation")[0], np.zeros((side, side, 1))),),
        *(np.ones((side, side)), np.zeros(side), np.zeros((side, side), dtype=bool)),
    )
    kan = Kan(side, (layer,))
    assert len(archive.dumps(kan, {})) > 10**6
    assert same(archive.loads(archive.dumps(kan, {}))[0], kan)


# A small file must not need gigabytes.
LARGE = {"is": "ir.Layer", "terms": [], "mask": {"full": 1.0, "shape": [12_000, 12_000]}}


def test_wrong_documents_are_rejected() -> None:
    for change, message in (
        ({"format": 2}, "has format 2"),
        ({"network": {"is": "ir.Nothing"}}, "no part 'ir.Nothing'"),
        ({"network": {"is": "ir.Select", "indices": [0]}}, "no network"),
        ({"network": {"is": "ir.Kan", "n_inputs": 2, "layers": []}}, "no layer"),
        ({"network": [[[]]]}, "no network"),
        ({"network": {}}, "no part"),
        ({"network": {"is": "ir.Kan", "n_inputs": 12_000, "layers": [LARGE]}}, r"shape \[12000, 12000\], have more"),
        ({"network": [{"full": 0.0, "shape": [2**19]}] * 3}, r"shape \[524288\], have more than 1048576 values"),
    ):
        document = {"format": 1, "network": {}, "facts": {}} | change
        with pytest.raises(CheckpointError, match=message):
            archive.loads(safetensors.write({}, {archive.KEY: json.dumps(document)}))


def test_damaged_files_are_rejected() -> None:
    """Any change of the header gives a network or a CheckpointError, and no other error."""
    data = archive.dumps(network("pykan-hello-symbolic"), {})
    end = 8 + int.from_bytes(data[:8], "little")
    rng, rejected = random.Random(0), 0
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(8, end)] = rng.choice(b'0123456789"{}[],.:aesx-')
        try:
            archive.loads(bytes(changed))
        except CheckpointError:
            rejected += 1
    assert rejected > 100
    with pytest.raises(CheckpointError):
        archive.loads(data[: end + 9])
