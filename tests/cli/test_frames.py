"""The client takes DataFrames: columns by their names, whatever their order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from kanserve.client import bulk, bulk_edges
from kanserve.client.connection import Client
from kanserve.client.errors import InvalidInput
from tests.cli.running import Server, checkpoint, document, program, serving

NAMES = ["height", "width", "depth"]
ROWS = np.random.default_rng(3).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
SHUFFLED = pd.DataFrame(ROWS, columns=NAMES)[["depth", "height", "width"]]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tiny`, whose numbers have names."""
    folder = tmp_path_factory.mktemp("frames")
    state = checkpoint(folder / "tiny.safetensors", (3, 4, 2))
    arguments = ("--features", ",".join(NAMES), "--json")
    document(program("export", state, "--repository", folder / "models", "--name", "tiny", *arguments))
    with serving(folder / "models", folder / "log") as server:
        yield server


def test_columns_are_put_in_the_model_s_order(named: Server) -> None:
    with Client(named.url) as client:
        model, described = client.model("tiny"), client.describe("tiny")
        expected = client.infer(model, ROWS).outputs["y"]
        np.testing.assert_array_equal(client.infer(model, SHUFFLED).outputs["y"], expected)
        np.testing.assert_array_equal(client.infer(described.input, ROWS, model="tiny").outputs["y"], expected)
        np.testing.assert_array_equal(bulk.infer(client, model, SHUFFLED).outputs["y"], expected)
        for ask in (client.explain, lambda d, rows: bulk.explain(client, d, rows)):
            np.testing.assert_array_equal(ask(described, SHUFFLED).contributions, ask(described, ROWS).contributions)
        for mine, theirs in zip(client.edges(described, SHUFFLED), client.edges(described, ROWS), strict=True):
            np.testing.assert_array_equal(mine.values, theirs.values)
        matter = [client.scores(described, rows).features for rows in (SHUFFLED, ROWS)]
        np.testing.assert_array_equal(*matter)
        (layer, *_) = bulk_edges.edges(client, described, SHUFFLED, layers=[0])
        np.testing.assert_array_equal(layer.values, client.edges(described, ROWS, layers=[0])[0].values)


def test_a_column_that_is_missing_or_none_of_the_model_s_is_named(named: Server) -> None:
    wrong = SHUFFLED.rename(columns={"width": "widht"})
    with Client(named.url) as client:
        for ask in (
            lambda: client.infer(client.model("tiny"), wrong),
            lambda: client.explain(client.describe("tiny"), wrong),
        ):
            with pytest.raises(InvalidInput, match="widht"):
                ask()


def test_without_names_columns_are_as_they_stand(server: Server) -> None:
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    with Client(server.url) as client:
        model = client.model("tiny")
        np.testing.assert_array_equal(client.infer(model, frame).outputs["y"], client.infer(model, ROWS).outputs["y"])
