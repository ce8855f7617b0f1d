"""Tests of `client/statistics.py`."""

import numpy as np
import pandas as pd

from kanserve.client.sync import Client
from tests.support.command_line import Server
from tests.support.named_models import BASELINE, CLASSES, NAMES

SHUFFLED = pd.DataFrame(BASELINE, columns=NAMES)[["depth", "height", "width"]]


def test_statistics_as_a_frame_have_a_line_for_each_node(server: Server) -> None:
    with Client(server.url) as client:
        described = client.describe("named")
        frame = client.drift(described, SHUFFLED).to_frame(described)
    assert list(frame["layer"]) == [0, 0, 0, 1, 1, 1, 1, -1, -1]
    assert list(frame["name"]) == [*NAMES, *(f"layer 1, node {at}" for at in range(4)), *CLASSES]
    assert not frame["drifted"].any()  # the rows of the export
    np.testing.assert_allclose(frame["mean"][:3], BASELINE.mean(axis=0), atol=1e-6)
    assert (frame["psi"] < frame["psi_threshold"]).all()


def test_without_a_baseline_statistics_are_a_frame_of_less(server: Server) -> None:
    with Client(server.url) as client:
        client.infer(client.model("tiny"), BASELINE)
        frame = client.statistics("tiny").to_frame(client.describe("tiny"))
    assert "psi" not in frame
    assert list(frame["name"][:3]) == ["x0", "x1", "x2"]
