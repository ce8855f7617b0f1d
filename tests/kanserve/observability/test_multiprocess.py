"""Tests of `observability/multiprocess.py`."""

import pytest

from kanserve.observability import multiprocess


def test_a_page_of_pages() -> None:
    page = '# HELP a_total Text.\n# TYPE a_total counter\na_total{{x="1"}} {}\n# HELP g G.\n# TYPE g gauge\ng {}\n'
    text = multiprocess.merge([page.format(1, 5), page.format(2.5, 7)])
    assert text == page.format(3.5, 12.0)
    assert multiprocess.merge([text], growing=True) == page.format(3.5, 0).partition("# HELP g")[0]


@pytest.mark.parametrize(("name", "expected"), [("kanserve_model_loaded", 0.0), ("kanserve_model_info", 1.0)])
def test_what_all_tell_of_one_thing_is_told_once(name: str, expected: float) -> None:
    pages = [f"# HELP {name} N.\n# TYPE {name} gauge\n{name} {number}\n" for number in (1, 0)]
    assert multiprocess.merge(pages).splitlines()[-1] == f"{name} {expected!r}"
