"""Batches: pieces of about equal size, and outputs that return to their requests."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.scheduling import batching
from kanserve.scheduling.batching import Batch


@settings(max_examples=settings.default.max_examples // 5)
@given(rows=st.integers(0, 3000), piece=st.integers(0, 300))
def test_pieces_are_about_equal(rows: int, piece: int) -> None:
    seen: list[int] = []

    def execute(_: object, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(len(feeds["x"]))
        return [feeds["x"]]

    x = np.arange(float(rows))[:, None]
    batch = Batch(execute, ["y"], [{"x": x}], rows, piece)
    batch.work()
    assert batch.error is None
    assert batch.result[0].tolist() == x.tolist()
    assert (len(seen), sum(seen)) == (batch.pieces, rows)
    assert max(seen) - min(seen) <= 1
    assert max(seen) <= (piece or rows) or rows <= piece
    if piece >= 16 and rows > 1:
        assert min(seen) >= min(rows, 8)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_outputs_go_back_to_whom_they_belong(rows: list[int]) -> None:
    feeds = [{"x": np.full((count, 2), at, np.float32)} for at, count in enumerate(rows)]
    joined = batching.joined(feeds)["x"]
    assert len(joined) == sum(rows)
    for feed, (response,) in zip(feeds, batching.split([joined], rows), strict=True):
        np.testing.assert_array_equal(response, feed["x"])


@pytest.mark.parametrize("begin", range(4))
def test_the_input_of_one_request_is_aligned(begin: int) -> None:
    values = np.arange(6, dtype=np.float32)
    message = memoryview(bytes(begin) + values.tobytes())[begin:]
    joined = batching.joined([{"x": np.frombuffer(message, np.float32)}])["x"]
    assert joined.tolist() == values.tolist()
    assert joined.ctypes.data % batching.LEAST == 0


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 39), st.integers(1, 20))
def test_a_piece_begins_where_the_runtime_reads_it_as_it_reads_a_whole(
    rows: int, width: int, start: int, count: int
) -> None:
    x = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    piece = batching.select_rows({"x": x}, start, start + count)["x"]
    np.testing.assert_array_equal(piece, x[start : start + count])
    assert piece.size == 0 or (piece.ctypes.data - x.ctypes.data) % batching.ALIGNED == 0 or piece.base is None
