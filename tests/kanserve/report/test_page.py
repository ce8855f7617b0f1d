"""Tests of `report/page.py`."""

from kanserve.plotting.scenes import Line, Scene
from kanserve.report import page
from kanserve.report.page import Bars, Facts, Grid, Pictures, Report
from tests.support.documents import Balanced


def test_words_from_a_model_are_words_and_no_html() -> None:
    evil = "<script>alert(1)</script>"
    scene = Scene(10, 10, evil, [Line(((0, 0), (1, 1)))])
    parts = [
        Facts(evil, [(evil, evil)]),
        Bars(evil, evil, [(evil, 1.0)]),
        Grid(evil, evil, [evil], [[evil]]),
        Pictures(evil, evil, [scene] * 2),
    ]
    text = page.html(Report(evil, evil, parts, evil))
    assert "<script" not in text
    assert "Content-Security-Policy" not in text
    balanced = Balanced()
    balanced.feed(text)
    assert balanced.open == []
