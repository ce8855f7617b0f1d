"""The report that computes, in a real Chromium without a network, compared with the reference outputs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.ui.conftest import GOLDEN
from tests.support.command_line import exported, kanserve
from tests.support.server_process import serving
from tests.support.tiers import full

MODULE = GOLDEN.parent / "wasm" / "pykan-hello-adapted.wasm"
pytestmark = full("second browser page")
NAMED = ("--features", "length,width", "--units", "m,", "--classes", "price")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about a served model, with its module."""
    pytest.importorskip("h2corn")
    target = tmp_path_factory.mktemp("report") / "hello.html"
    with serving(exported(GOLDEN / "pykan-hello-adapted" / "model", "hello", *NAMED), transport="asgi") as server:
        done = kanserve("report", "hello", "--interactive", MODULE, "-o", target, "--url", server.address)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def page(browse: Callable[..., Any], report: Path) -> Any:
    return browse(report)


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def set_to(page: Any, row: np.ndarray) -> None:
    """Type a value for each input."""
    for at, value in enumerate(row.tolist()):
        page.locator("#interactive input[type=number]").nth(at).fill(repr(value))
        page.locator("#interactive input[type=number]").nth(at).dispatch_event("change")


def test_predictions_and_contributions_are_the_reference(page: Any) -> None:
    page.wait_for_selector('#interactive[data-state="ready"]')
    with np.load(GOLDEN / "pykan-hello-adapted" / "reference.npz") as arrays:
        x, y = arrays["x"][:8], arrays["y64"][:8]
    for row, expected in zip(x.astype(np.float32), y, strict=True):
        set_to(page, row)
        assert numbers(page.inner_text(".outputs td"))[0] == pytest.approx(expected[0], abs=1e-5 * np.abs(y).max())
        base, shares, total = numbers(page.inner_text(".total"))
        assert base + shares == pytest.approx(total, abs=1e-4)


def test_a_slider_moves_the_prediction_and_the_curve(page: Any) -> None:
    page.wait_for_selector('#interactive[data-state="ready"]')
    labels = page.locator("#interactive .inputs th").all_inner_texts()
    assert labels[-2:] == ["length [m]", "width"]
    before = page.inner_text(".outputs td"), page.locator("#interactive polyline").nth(1).get_attribute("points")
    slider = page.locator("#interactive input[type=range]").first
    slider.focus()
    slider.press("End")
    after = page.inner_text(".outputs td"), page.locator("#interactive polyline").nth(1).get_attribute("points")
    assert before[0] != after[0]
    assert before[1] != after[1]
    page.get_by_role("button", name="Reset").click()
    assert page.inner_text(".outputs td") == before[0]
    assert "differs from the server by at most" in page.inner_text("#interactive")


def test_outputs_of_another_model_are_not_shown(browse: Callable[..., Any], report: Path, tmp_path: Path) -> None:
    """The page compares itself with outputs of the server, and shows nothing if they differ."""
    text = report.read_text()
    data = re.search(r'id="interactive-data">(.*?)</script>', text, re.DOTALL)[1]
    document = json.loads(data)
    document["checks"]["y"][0][0] += 0.5
    other = tmp_path / "other.html"
    other.write_text(text.replace(data, json.dumps(document)))
    page = browse(other)
    page.wait_for_selector('#interactive[data-state="failed"]')
    assert "its outputs differ from the server's by" in page.inner_text("#interactive")
    assert page.locator("#interactive input").count() == 0
