"""Torch modules with KAN layers, exported and served: outputs and edges compared with the module in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve.client import chunking
from kanserve.client.errors import NotSupported
from kanserve.client.sync import Client
from tests.support.golden_cases import EDGE_TOLERANCE, OUTPUT_TOLERANCE, OWN, relative_error
from tests.support.server_process import Server
from tests.support.server_process import serving as running

torch = pytest.importorskip("torch")

from kanexport.bundle.publish import Target  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support import torch_modules as modules  # noqa: E402 - needs torch

SHAPES = {"cnn": (1, 8, 8), "transformer": (8, 8), "convolution": (2, 6, 6), "turned": (5, 4)}


def golden(module: Any, case: str) -> Any:
    module.load_state_dict(torch.load(OWN / case / "model.pt", weights_only=True))
    return module


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "cnn": golden(modules.GoldenCnn(), "hybrid-cnn-efficient-kan"),
        "transformer": golden(modules.GoldenTransformer(), "hybrid-transformer-fastkan"),
        "convolution": modules.KanConvolution(),
        "turned": modules.SharedAndTurned(),
    }


@pytest.fixture(scope="module")
def hybrids(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("hybrids")
    for name, module in made.items():
        convert(module, draw(name, 8), Target(repository=repository, name=name), options={})
    with running(repository, max_response_bytes=65536) as server:
        yield server


def draw(name: str, count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *SHAPES[name])).astype(np.float32)


def remembered(module: Any, x: np.ndarray) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """The module's output in float64, and what each submodule gave, run by run."""
    seen: dict[str, list[np.ndarray]] = {}
    hooks = [
        part.register_forward_hook(
            lambda _, args, y, name=name: (
                seen.setdefault(name, []).append(y.numpy()) if isinstance(y, torch.Tensor) else None
            )
        )
        for name, part in module.named_modules()
    ]
    with torch.no_grad():
        y = module.double().eval()(torch.from_numpy(x).double()).numpy()
    for hook in hooks:
        hook.remove()
    return y, seen


@pytest.mark.parametrize(("name", "layer", "nodes"), [("cnn", 0, 96), ("convolution", 6, 48)])
def test_of_a_hybrid_the_layers_at_its_end_are_explained(
    hybrids: Server, name: str, layer: int, nodes: int, state_error
) -> None:
    x = draw(name, 5)
    with Client(hybrids.address) as client:
        result = client.explain(client.describe(name), x)
    assert (result.layer, result.nodes_are_inputs, result.contributions.shape[:2]) == (layer, False, (5, nodes))
    error = result.completeness_error.max() / np.abs(result.predictions).max()
    state_error("contributions miss the prediction, relative", error, name)
    assert error < 1e-5


def test_a_hybrid_that_ends_otherwise_is_not_explained(hybrids: Server) -> None:
    with (
        Client(hybrids.address) as client,
        pytest.raises(NotSupported, match=r"need exactly one output of shape \[rows, numbers\]"),
    ):
        client.explain(client.describe("turned"), draw("turned", 2))


@pytest.mark.parametrize("name", SHAPES)
def test_a_hybrid_answers_as_its_module(name: str, made: dict[str, Any], hybrids: Server, state_error) -> None:
    x = draw(name, 33)
    expected, _ = remembered(made[name], x)
    with Client(hybrids.address) as client:
        result = chunking.infer(client, client.model(name), x).outputs["y"]
    error = relative_error(result, expected)
    state_error("served hybrids, relative", error, name)
    assert error <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("name", SHAPES)
def test_the_edges_of_every_layer_add_up_to_its_sums(
    name: str, made: dict[str, Any], hybrids: Server, state_error
) -> None:
    x = draw(name, 33)  # more than one answer holds
    _, seen = remembered(made[name], x)
    with Client(hybrids.address) as client:
        described = client.describe(name)
        for layer in described.layers:
            (result,) = chunking.edges(client, described, x, layers=(layer.name,))
            assert result.values.shape == (33, *layer.positions, layer.sources, layer.destinations)
            sums = result.values.sum(axis=-2) + np.asarray(layer.bias or 0.0)
            path, _, run = layer.name.partition("#")
            expected = seen[path][int(run or 1) - 1]
            if name == "turned":  # positions first, then rows
                expected = expected.swapaxes(0, 1)
            error = relative_error(sums.reshape(-1, layer.destinations), expected.reshape(-1, layer.destinations))
            state_error("sums of served hybrid edges, relative", error, f"{name}, {layer.name}")
            assert error <= EDGE_TOLERANCE


def test_a_layer_after_a_normalisation_is_of_class_b(hybrids: Server) -> None:
    with Client(hybrids.address) as client:
        described = client.describe("transformer")
        classes = {layer.name: layer.edge_class for layer in described.layers}
        assert classes == {"embed": "A", "ffn.layers.0": "B", "ffn.layers.1": "B", "out": "A"}
        assert described.edge_class == "B"
        (result,) = client.edges(described, draw("transformer", 3), layers=("ffn.layers.1",), top_k=2)
        assert result.values.shape == (3, 8, 2)


def test_positions_show_in_the_folder_too(tmp_path: Path, made: dict[str, Any]) -> None:
    from kanexport.contract import manifest

    convert(made["cnn"], draw("cnn", 8), Target(repository=tmp_path, name="cnn"), options={})
    assert manifest.arrows(manifest.load(tmp_path / "cnn" / "1").shapes) == "1x8x8 → 96 → 12 → 10"
