"""Explanations in shap's terms: as a dictionary, and as `shap.Explanation` if shap is installed.

`make notebook` runs this file in an environment with shap.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kanserve.client import chunking
from kanserve.client.explanation import Explanation
from kanserve.client.sync import Client
from tests.support.command_line import Server

ROWS = np.random.default_rng(6).uniform(-0.9, 0.9, (30, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def found(server: Server) -> Explanation:
    with Client(server.url) as client:
        return client.explain(client.describe("tiny"), ROWS)


def test_outputs_add_up_as_shap_s_do_and_one_is_named_or_numbered(found: Explanation) -> None:
    reported = found.to_dict()
    assert (reported["feature_names"], reported["output_names"]) == (["x0", "x1", "x2"], ["y0", "y1"])
    assert (reported["values"].shape, reported["base_values"].shape) == ((30, 3, 2), (30, 2))
    np.testing.assert_array_equal(reported["data"], ROWS)
    np.testing.assert_allclose(reported["base_values"] + reported["values"].sum(axis=1), found.predictions, atol=1e-5)
    for which in (1, "y1"):
        one = found.to_dict(which)
        assert (one["values"].shape, one["base_values"].shape, one["output_names"]) == ((30, 3), (30,), "y1")
        np.testing.assert_array_equal(one["values"], found.contributions[:, :, 1])


def test_outputs_keep_their_numbers_where_some_were_asked_for(server: Server) -> None:
    with Client(server.url) as client:
        some = client.explain(client.describe("tiny"), ROWS, outputs=[1])
    assert some.to_dict()["values"].shape == (30, 3)
    np.testing.assert_array_equal(some.to_dict(1)["values"], some.to_dict("y1")["values"])
    for missing in (0, "y0", 2, -1):
        with pytest.raises(ValueError, match=f"output {missing!r} is not explained, expected one of '?y?1"):
            some.to_dict(missing)


def test_rows_of_a_frame_and_of_several_requests_are_its_data(server: Server) -> None:
    many = np.tile(ROWS, (12, 1))
    with Client(server.url) as client:
        described = client.describe("tiny")
        found = chunking.explain(client, described, many)
        framed = client.explain(described, pd.DataFrame(ROWS))
    np.testing.assert_array_equal(found.to_dict()["data"], many)
    np.testing.assert_array_equal(framed.to_dict()["data"], ROWS)


def test_what_does_not_add_up_is_nothing_for_shap_s_plots(server: Server) -> None:
    with Client(server.url) as client:
        slopes = client.explain("tiny", ROWS, method="gradient_x_input")
    assert slopes.to_dict(0)["values"].shape == (30, 3)
    with pytest.raises(ValueError, match="do not add up to the predictions"):
        slopes.to_shap(0)


def test_without_shap_it_says_what_there_is_instead(found: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)  # as an import finds it that is not installed
    with pytest.raises(ImportError, match=r"needs the Python package shap, .* to_dict\(\) has the same numbers"):
        found.to_shap()


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> Any:
    shap = pytest.importorskip("shap", reason="`make notebook` has it")
    matplotlib = pytest.importorskip("matplotlib", reason="`make notebook` has it")
    matplotlib.use("agg")
    return shap.plots


@pytest.mark.filterwarnings("default")  # what shap says about the libraries it uses is its own affair
def test_shap_s_own_plots_take_it(found: Explanation, plots: Any) -> None:
    from matplotlib import pyplot

    item = found.to_shap("y1")
    np.testing.assert_array_equal(item.values, found.contributions[:, :, 1])
    assert list(item.feature_names) == ["x0", "x1", "x2"]
    drawn = [plots.waterfall(item[4], show=False), plots.beeswarm(item, show=False), plots.bar(item, show=False)]
    drawn += [plots.scatter(item[:, "x2"], show=False), plots.heatmap(item, show=False)]
    assert all(axes is not None for axes in drawn)
    pyplot.close("all")

    every = found.to_shap()
    assert (every.shape, list(every.output_names)) == ((30, 3, 2), ["y0", "y1"])
    axes = plots.beeswarm(every[:, :, "y0"], show=False)
    assert {label.get_text() for label in axes.get_yticklabels()} == {"x0", "x1", "x2"}
    pyplot.close("all")
    np.testing.assert_array_equal(every[..., 1].values, item.values)
