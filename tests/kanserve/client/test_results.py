"""Tests of `client/results.py`."""

from __future__ import annotations

import numpy as np
import pytest

from kanserve.client.results import Answer


def test_an_answer_that_is_no_table_is_no_frame() -> None:
    answer = Answer("1", {"a": np.zeros((2, 3)), "b": np.zeros((2, 3, 1))})
    assert list(answer.to_frame("a").columns) == ["a0", "a1", "a2"]
    for output, text in (("b", "b has 3 axes"), ("", "unknown output '', expected one of 'a', 'b'")):
        with pytest.raises(ValueError, match=text):
            answer.to_frame(output)
