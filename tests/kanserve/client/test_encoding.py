"""DataFrames as input and output: columns matched by name in any order, and row labels preserved."""

import re
import sys
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kanserve.client import calls, chunking
from kanserve.client.errors import InvalidInput, NotSupported
from kanserve.client.sync import Client
from kanserve.types import TensorInfo
from tests.support import chunked, named_models
from tests.support.command_line import Server
from tests.support.named_models import CLASSES, NAMES

ROWS = named_models.ROWS[:20]
SHUFFLED = pd.DataFrame(ROWS, columns=NAMES)[["depth", "height", "width"]]
CALLED = SHUFFLED.set_index(pd.Index([f"box {at}" for at in range(len(ROWS))], name="box"))


def test_columns_are_put_in_the_model_s_order(server: Server) -> None:
    with Client(server.url) as client:
        model, described = client.model("named"), client.describe("named")
        expected = client.infer(model, ROWS).outputs["y"]
        np.testing.assert_array_equal(client.infer(model, SHUFFLED).outputs["y"], expected)
        np.testing.assert_array_equal(client.infer(described.input, ROWS, name="named").outputs["y"], expected)
        np.testing.assert_array_equal(chunked.infer(client, model, SHUFFLED).outputs["y"], expected)
        for ask in (client.explain, lambda d, rows: chunking.explain(client, d, rows)):
            np.testing.assert_array_equal(ask(described, SHUFFLED).contributions, ask(described, ROWS).contributions)
        for mine, theirs in zip(client.edges(described, SHUFFLED), client.edges(described, ROWS), strict=True):
            np.testing.assert_array_equal(mine.values, theirs.values)
        matter = [client.scores(described, rows).features for rows in (SHUFFLED, ROWS)]
        np.testing.assert_array_equal(*matter)
        (layer, *_) = chunking.edges(client, described, SHUFFLED, layers=[0])
        np.testing.assert_array_equal(layer.values, client.edges(described, ROWS, layers=[0])[0].values)


def test_old_keywords_of_infer_work_with_a_warning(server: Server) -> None:
    with Client(server.url) as client:
        model = client.model("named")
        expected = client.infer(model="named", rows=ROWS).outputs["y"]
        old: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
            ((), {"tensors": "named", "rows": ROWS}),
            ((), {"tensors": model.inputs[0], "rows": ROWS, "model": "named"}),
            ((model.inputs[0], ROWS), {"model": "named"}),
        )
        for arguments, keywords in old:
            with pytest.warns(DeprecationWarning, match="`tensors` is now `model`") as warned:
                np.testing.assert_array_equal(client.infer(*arguments, **keywords).outputs["y"], expected)
            assert warned[0].filename == __file__


def test_a_column_that_is_missing_or_none_of_the_model_s_is_named(server: Server) -> None:
    wrong = SHUFFLED.rename(columns={"width": "widht"})
    with Client(server.url) as client:
        for ask in (
            lambda: client.infer(client.model("named"), wrong),
            lambda: client.explain(client.describe("named"), wrong),
        ):
            with pytest.raises(InvalidInput, match="widht"):
                ask()


def frame(*values: object, dtype: str | None = None) -> pd.DataFrame:
    return pd.DataFrame({"height": pd.Series(values, dtype=dtype), "width": 1.0, "depth": 2.0})


# Rows -> the code and a part of the error.
WRONG: list[tuple[object, str, str]] = [
    (frame(1, "tall"), "rows-not-numbers", "row 1, column 'height': found 'tall', expected a number"),
    (frame(1, None, dtype="object"), "rows-value-missing", "row 1, column 'height': found no value (None)"),
    (frame(1, None, dtype="Float64"), "rows-value-missing", "row 1, column 'height': found no value (<NA>)"),
    (frame(pd.Timestamp(0)), "rows-not-numbers", "row 0, column 'height': found '1970-01-01"),
    ([[1, None, 2]], "rows-value-missing", "input x, value [0, 1]: found no value (None)"),
    ([["1.5", 1, 2]], "rows-not-numbers", "input x, value [0, 0]: found '1.5'"),
    ([[1, 2, 3], [1]], "rows-not-numbers", "inhomogeneous"),
    (np.array([[1j, 2, 3]]), "rows-not-numbers", "value [0, 0]: found '1j'"),
    ([[1e300, 0, 0]], "rows-value-out-of-range", "value [0, 0]: 1e+300 is out of the range of FP32"),
]


def test_a_value_that_is_missing_or_not_a_number_is_named(server: Server) -> None:
    with Client(server.url) as client:
        model, described = client.model("named"), client.describe("named")
        for rows, code, text in WRONG:
            for ask in (partial(client.infer, model), partial(client.explain, described)):
                with pytest.raises(InvalidInput, match=re.escape(text)) as caught:
                    ask(rows)
                assert (caught.value.error_code, bool(caught.value.hint)) == (code, True)
        client.infer(model, frame(np.nan, Decimal(2), True))
    whole = TensorInfo("x", "INT8", (-1, 1))
    for wrong in ([[300]], np.array([[300]]), [[1.5]], [[np.nan]]):
        with pytest.raises(InvalidInput, match=r"value \[0, 0\]: .* is out of the range of INT8"):
            calls.inference(whole, wrong)
    with pytest.raises(NotSupported, match="input x is BYTES, which this client does not support"):
        calls.inference(TensorInfo("x", "BYTES", (-1,)), [b"a"])


def test_a_version_is_a_number_or_text() -> None:
    for make in (calls.model, calls.describe, calls.certificates, calls.curves, calls.statistics):
        assert make("m", 9) == make("m", "9") or make is calls.model
        with pytest.raises(ValueError, match=r"version is 1.5, expected a number such as 2"):
            make("m", 1.5)


def test_without_names_columns_are_as_they_stand(server: Server) -> None:
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    with Client(server.url) as client:
        model, described = client.model("tiny"), client.describe("tiny")
        expected = client.infer(model, ROWS).outputs["y"]
        for ask, by_position in (
            (lambda: client.infer(model, frame).outputs["y"], expected),
            (lambda: chunking.coverage(client, described, frame).counts, client.coverage(described, ROWS).counts),
        ):
            with pytest.warns(
                UserWarning, match="columns a, b, c, but the model has no feature names: the order"
            ) as reported:
                result = ask()
            assert (len(reported), reported[0].filename) == (1, __file__)
            np.testing.assert_array_equal(result, by_position)
        numbered = client.infer(model, pd.DataFrame(ROWS))  # without a warning
    np.testing.assert_array_equal(numbered.outputs["y"], expected)


def test_responses_as_frames_have_the_classes_and_the_rows_names(server: Server) -> None:
    with Client(server.url) as client:
        model = client.model("named")
        response, by_number = client.infer(model, CALLED), client.infer(model, ROWS)
        bare = client.infer(model.inputs[0], ROWS, name="named")
        joined = chunked.infer(client, model, CALLED)
        covered = client.infer(model, CALLED, parameters={"kan.coverage": True})
    assert len(covered.outputs) > 1  # where the rows are on the grids goes with it
    pd.testing.assert_frame_equal(covered.to_frame(), response.to_frame())
    frame = response.to_frame()
    assert (list(frame.columns), frame.index.name, frame.index[3]) == (CLASSES, "box", "box 3")
    np.testing.assert_array_equal(frame.to_numpy(), response.outputs["y"])
    pd.testing.assert_frame_equal(joined.to_frame(), frame)
    pd.testing.assert_frame_equal(by_number.to_frame("y"), frame.reset_index(drop=True))
    assert list(bare.to_frame().columns) == ["y0", "y1"]
    with pytest.raises(ValueError, match="unknown output 'z', expected one of 'y'"):
        response.to_frame("z")


def test_contributions_as_a_frame_add_up_by_row(server: Server) -> None:
    with Client(server.url) as client:
        described = client.describe("named")
        result, joined = client.explain(described, CALLED), chunking.explain(client, described, CALLED)
        item = client.explain(described, CALLED, outputs=[1])
    frame = result.to_frame("yes")
    assert (list(frame.columns), frame.index[-1]) == (NAMES, "box 19")
    np.testing.assert_allclose(frame.sum(axis=1) + result.base[1], result.predictions[:, 1], atol=1e-5)
    pd.testing.assert_frame_equal(joined.to_frame(1), frame)
    pd.testing.assert_frame_equal(item.to_frame(), frame)
    with pytest.raises(ValueError, match="the explanation has several outputs: 'no', 'yes'"):
        result.to_frame()


def test_without_pandas_it_says_what_there_is_instead(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(server.url) as client:
        response = client.infer(client.model("named"), ROWS)
    monkeypatch.setitem(sys.modules, "pandas", None)  # as an import finds it that is not installed
    with pytest.raises(ImportError, match=r"needs the Python package pandas, .* its arrays have the same numbers"):
        response.to_frame()
