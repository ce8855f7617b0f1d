"""Torch modules with KAN layers, exported and served: outputs compared with the module in float64."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kanexport.shared import manifest
from kanserve.client.sync import Client
from tests.support import chunked
from tests.support.golden_cases import OUTPUT_TOLERANCE, OWN, relative_error
from tests.support.server_process import Server
from tests.support.server_process import serving as running
from tests.support.tiers import full

pytestmark = full("combination")
torch = pytest.importorskip("torch")

from kanexport.bundle.publish import Target  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support import torch_modules as modules  # noqa: E402 - needs torch

SHAPES = {"cnn": (1, 8, 8), "turned": (5, 4)}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    torch.manual_seed(0)
    cnn = modules.GoldenCnn()
    cnn.load_state_dict(torch.load(OWN / "hybrid-cnn-efficient-kan" / "model.pt", weights_only=True))
    return {"cnn": cnn, "turned": modules.SharedAndTurned()}


@pytest.fixture(scope="module")
def hybrids(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("hybrids")
    for name, module in made.items():
        convert(module, draw(name, 8), Target(repository=repository, name=name), options={})
    assert manifest.arrows(manifest.load(repository / "cnn" / "1").shapes) == "1x8x8 → 96 → 12 → 10"
    with running(repository, max_response_bytes=65536) as server:
        yield server


def draw(name: str, count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *SHAPES[name])).astype(np.float32)


def test_of_a_hybrid_the_layers_at_its_end_are_explained(hybrids: Server, state_error) -> None:
    with Client(hybrids.address) as client:
        result = client.explain(client.describe("cnn"), draw("cnn", 5))
    assert (result.layer, result.nodes_are_inputs, result.contributions.shape[:2]) == (0, False, (5, 96))
    error = result.completeness_error.max() / np.abs(result.predictions).max()
    state_error("contributions miss the prediction, relative", error, "cnn")
    assert error < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_a_hybrid_computes_as_its_module(name: str, made: dict[str, Any], hybrids: Server, state_error) -> None:
    x = draw(name, 33)
    with torch.no_grad():
        expected = made[name].double().eval()(torch.from_numpy(x).double()).numpy()
    with Client(hybrids.address) as client:
        result = chunked.infer(client, client.model(name), x).outputs["y"]
    error = relative_error(result, expected)
    state_error("served hybrids, relative", error, name)
    assert error <= OUTPUT_TOLERANCE
