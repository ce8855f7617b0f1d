"""Prediction intervals and error bars of the explained row in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kanserve.client.sync import Client
from tests.integration.ui.conftest import GOLDEN
from tests.support.command_line import exported
from tests.support.server_process import serving
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("second browser page")


def function(x: np.ndarray) -> np.ndarray:
    """The function that the network has learned."""
    return np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)


def test_the_interval_of_a_row_is_shown_and_marked_after_drift(browse: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (500, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=function(x) + rng.normal(size=500))
    calibrated = ("--calibration", tmp_path / "rows.npz", "--coverage", "0.9")
    models = exported(GOLDEN / "pykan-hello-symbolic" / "model", "hello", *calibrated)
    with serving(models, transport="asgi", statistics="full") as server, Client(server.address) as client:
        page = browse(server, "ui/hello/explain#row=0.3,-0.2")
        shown = page.locator(".cover.interval")
        shown.wait_for()
        assert shown.inner_text().startswith("Reliability unknown. 90% prediction interval: ")
        page.goto("ui/hello/explain#row=9,-0.2")
        page.reload()
        page.locator(".cover.bad.interval").wait_for()
        assert "rows are out of range" in page.locator(".cover.interval").inner_text().lower()
        page.goto("ui/hello/explain#row=0.3,-0.2")
        moved = np.full((250, 2), 0.95, np.float32)

        def unreliable() -> bool:
            client.infer(client.model("hello"), moved)
            explained = client.explain(client.describe("hello"), moved[:1]).intervals
            return explained is not None and explained.reliable is False

        until(unreliable)
        page.reload()
        page.locator(".cover.bad.interval").wait_for()
        assert page.locator(".cover.interval").inner_text().startswith("Unreliable. 90% prediction interval: ")
        page.context.close()


def test_the_error_bar_of_a_row_is_shown_with_its_assumption(browse: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-0.9, 0.9, (100, 2))
    words = ("--certify", "--certify-budget", "60s", "--error-bars")
    for name, noise in (("smooth", 0), ("noisy", 9)):
        rows = tmp_path / f"{name}.npz"
        np.savez(rows, x=x, y=function(x) + noise * rng.normal(size=100))
        case = GOLDEN / "pykan-hello-adapted" / "model"
        exported(case, name, "--calibration", rows, *words, into=tmp_path / "models")
    with serving(tmp_path / "models", transport="asgi") as server:
        page = browse(server)
        for place, state, beginning in (
            ("smooth/explain#row=0.3,-0.2", "unknown", "Error bar: ±"),
            ("smooth/explain#row=5,-0.2", "unknown", "No error bar: the row is outside of the certified box."),
            ("noisy/explain#row=0.3,-0.2", "bad", "Unreliable. Error bar: ±"),
        ):
            page.goto(f"ui/{place}")
            page.reload()
            shown = page.locator(f".cover.{state}.error-bar")
            shown.wait_for()
            assert shown.inner_text().startswith(beginning)
        assert "if the true function is no steeper than the Lipschitz bounds" in shown.inner_text()
        page.context.close()
