"""Curves as characters."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.plotting import characters


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=2, max_size=300))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    drawn = characters.line(np.array(values), 24)
    assert len(drawn) == min(24, len(values))
    assert set(drawn) <= {*characters.BARS, characters.NO_VALUE}
    picture = characters.picture(np.array(values), 20, 5)
    assert [len(line) for line in picture] == [20] * 5
    assert all(0x2800 <= ord(character) <= 0x28FF for line in picture for character in line)


def test_a_straight_line_is_drawn_as_one() -> None:
    assert characters.line(np.arange(8), 8) == characters.BARS
    assert characters.line(np.ones(4), 4) == characters.BARS[4] * 4
    assert characters.line(np.array([0.0, np.nan, 1.0]), 3) == "▁·█"
    rising = characters.picture(np.arange(8.0), 4, 2)
    assert rising == ["⠀⠀⣠⠞", "⣠⠞⠁⠀"]
