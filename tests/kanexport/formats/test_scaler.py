"""Scaler files: forms, columns, and errors with code and hint."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import OptionError
from kanexport.formats import scaler
from kanexport.formats.scaler import ScalerFile
from kanexport.shared.sections import MIN_MAX, STANDARD

FLAG = "--input-scaler"


def loaded(folder: Path, document: Any, name: str = "s.json") -> ScalerFile:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / name).write_text(text)
    return scaler.load(folder / name, FLAG)


def test_mean_and_scale(tmp_path: Path) -> None:
    file = loaded(tmp_path, {"mean": [5, -2.5], "scale": [2, 0.5]})
    assert (file.scaler.kind, file.scaler.offset, file.scaler.scale) == (STANDARD, (5.0, -2.5), (2.0, 0.5))
    assert file.scaler.name == "s.json"
    assert len(file.scaler.sha256) == 64
    assert file.scaler.text(lambda at: f"x{at}") == "standard (s.json): x0: mean 5, scale 2; x1: mean -2.5, scale 0.5"
    file = loaded(tmp_path, {"mean": 3, "scale": 2})  # for one column
    assert file.fitted((), 1, "output")[0].offset == (3.0,)
    with pytest.raises(OptionError, match="numbers for 1 columns, expected 4: one per input of the model") as caught:
        file.fitted((), 4, "input")
    assert caught.value.code == "scaler-wrong-length"


@pytest.mark.parametrize("ends", [None, [0, 1], [-1, 1], [2, 10]])
def test_minimum_and_maximum_become_the_ends_of_the_range(tmp_path: Path, ends: list[float] | None) -> None:
    least, greatest = np.array([0.0, -30.0]), np.array([10.0, 50.0])
    document = {"min": least.tolist(), "max": greatest.tolist()} | ({} if ends is None else {"range": ends})
    own = loaded(tmp_path, document).scaler
    low, high = ends or (0, 1)
    assert (own.kind, own.range) == (MIN_MAX, (low, high))
    offset, scale = np.array(own.offset), np.array(own.scale)
    np.testing.assert_allclose((least - offset) / scale, low, atol=1e-12)
    np.testing.assert_allclose((greatest - offset) / scale, high, atol=1e-12)
    assert f"-30 to 50 become {low:g} to {high:g}" in own.text(str)


def test_names_decide_the_order_of_columns(tmp_path: Path) -> None:
    file = loaded(tmp_path, {"mean": [1, 2, 3], "scale": [4, 5, 6], "columns": ["a", "b", "c"]})
    moved, notes = file.fitted(("c", "a", "b"), 3, "input")
    assert (moved.offset, moved.scale) == ((3.0, 1.0, 2.0), (6.0, 4.0, 5.0))
    assert notes == ("the columns of s.json are in another order than the inputs; their names decide",)
    assert file.fitted(("a", "b", "c"), 3, "input") == (file.scaler, ())
    assert file.fitted((), 3, "input") == (file.scaler, ())
    unknown = r"--input-scaler s\.json has the column 'c', expected the inputs"
    with pytest.raises(OptionError, match=unknown) as caught:
        file.fitted(("a", "b", "cc"), 3, "input")
    assert (caught.value.code, caught.value.hint) == ("scaler-column-unknown", "did you mean 'cc'?")


TWO: dict[str, Any] = {"mean": [0, 1], "scale": [1, 1]}
FAULTS: dict[str, tuple[Any, str, str]] = {
    "not JSON": ("{", "scaler-malformed", "is not valid JSON"),
    "list": ([1], "scaler-malformed", "is a list, expected an object"),
    "empty": ({}, "scaler-malformed", "has no keys, expected mean and scale, or min and max"),
    "both": ({"mean": [0], "scale": [1], "min": [0], "max": [1]}, "scaler-malformed", "has mean, scale, min, max"),
    "missing": ({"mean": [0]}, "scaler-malformed", "has no key 'scale'"),
    "unknown": ({"mean": [0], "scale": [1], "colums": ["a"]}, "scaler-key-unknown", "unknown key 'colums'"),
    "other": ({"mean": [0], "scale": [1], "range": [0, 1]}, "scaler-key-unknown", "unknown key 'range'"),
    "twice": ('{"mean": [0], "mean": [1], "scale": [1]}', "scaler-malformed", "the key 'mean' occurs twice"),
    "lengths": ({"mean": [0, 1], "scale": [1]}, "scaler-lengths-differ", "2 in mean and 1 in scale"),
    "names": (TWO | {"columns": ["a"]}, "scaler-lengths-differ", "2 in mean and 1 in columns"),
    "repeated": (TWO | {"columns": ["a", "a"]}, "scaler-column-repeated", "the column 'a' occurs twice"),
    "no names": ({"mean": [0], "scale": [1], "columns": [1]}, "scaler-malformed", "expected a list of names"),
    "text": ({"mean": ["0"], "scale": [1]}, "scaler-value-invalid", r'mean\[0\] is "0", expected a number'),
    "truth": ({"mean": [True], "scale": [1]}, "scaler-value-invalid", r"mean\[0\] is true"),
    "null": ({"mean": None, "scale": [1]}, "scaler-value-invalid", r"mean\[0\] is null"),
    "nested": ({"mean": [[0]], "scale": [1]}, "scaler-value-invalid", r"mean\[0\] is \[0\]"),
    "NaN": ('{"mean": [NaN], "scale": [1]}', "scaler-malformed", "NaN is not allowed"),
    "infinite": ('{"mean": [1e999], "scale": [1]}', "scaler-value-invalid", r"mean\[0\] is Infinity"),
    "huge": ({"mean": [10**400], "scale": [1]}, "scaler-value-invalid", r"mean\[0\] is 1000"),
    "zero": ({"mean": [0], "scale": [0]}, "scaler-scale-invalid", r"scale\[0\] is 0, expected a positive number"),
    "negative": ({"mean": [0], "scale": [-1]}, "scaler-scale-invalid", r"scale\[0\] is -1"),
    "tiny": ({"mean": [0], "scale": [1e-40]}, "scaler-scale-invalid", r"scale\[0\] is 1e-40"),
    "constant": ({"min": [3], "max": [3]}, "scaler-scale-invalid", r"min\[0\] is 3 and max\[0\] is 3, expected min <"),
    "swapped": ({"min": [3], "max": [2]}, "scaler-scale-invalid", "expected min < max"),
    "range": ({"min": [0], "max": [1], "range": [1, 1]}, "scaler-malformed", "expected .low, high. with low < high"),
    "short range": ({"min": [0], "max": [1], "range": [1]}, "scaler-malformed", "expected .low, high. with low < high"),
    "no numbers": ({"mean": [], "scale": []}, "scaler-malformed", "has an empty list 'mean'"),
    "deep": ("[" * 5000, "scaler-malformed", "is not valid JSON: the brackets"),
}


def test_a_fault_is_an_error_with_the_file_the_fault_and_a_hint(tmp_path: Path) -> None:
    for document, code, text in FAULTS.values():
        with pytest.raises(OptionError, match=text) as caught:
            loaded(tmp_path, document)
        assert caught.value.code == code
        assert str(caught.value).startswith("--input-scaler s.json")
        assert caught.value.hint
        assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read: No such file") as caught:
        scaler.load(tmp_path / "none.json", FLAG)
    assert caught.value.code == "scaler-unreadable"
    with (tmp_path / "large.json").open("wb") as file:
        os.ftruncate(file.fileno(), scaler.SIZE_LIMIT + 1)
    with pytest.raises(OptionError, match="expected at most") as caught:
        scaler.load(tmp_path / "large.json", FLAG)
    assert caught.value.code == "file-too-large"
    with pytest.raises(OptionError, match="is not a regular file"):
        scaler.load(tmp_path, FLAG)
