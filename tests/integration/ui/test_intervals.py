"""Prediction intervals and error bars of the explained row in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kanserve.client.sync import Client
from tests.integration.ui.conftest import GOLDEN, Seen, watched
from tests.support.command_line import program
from tests.support.server_process import serving
from tests.support.wait import until


def test_the_interval_of_a_row_is_shown_and_marked_after_drift(browser: Any, seen: Seen, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (500, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2) + rng.normal(size=500))
    where = ("--repository", tmp_path / "models", "--name", "hello", "--calibration", tmp_path / "rows.npz")
    done = program("export", GOLDEN / "pykan-hello-symbolic/model", *where, "--coverage", "0.9")
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "models", transport="asgi", statistics="full") as server, Client(server.address) as client:
        context = browser.new_context(base_url=f"http://{server.http}/")
        page = watched(context, f"http://{server.http}/", seen)
        page.goto("ui/hello/explain#row=0.3,-0.2")
        shown = page.locator(".cover.interval")
        shown.wait_for()
        assert shown.inner_text().startswith("Reliability unknown. 90% prediction interval: ")
        moved = np.full((250, 2), 0.95, np.float32)

        def unreliable() -> bool:
            client.infer(client.model("hello"), moved)
            explained = client.explain(client.describe("hello"), moved[:1]).intervals
            return explained is not None and explained.reliable is False

        until(unreliable)
        page.reload()
        page.locator(".cover.bad.interval").wait_for()
        assert page.locator(".cover.interval").inner_text().startswith("Unreliable. 90% prediction interval: ")
        context.close()
    assert seen.harm() == []


def test_the_error_bar_of_a_row_is_shown_with_its_assumption(browser: Any, seen: Seen, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-0.9, 0.9, (100, 2))
    smooth = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    for name, y in (("smooth", smooth), ("noisy", smooth + 9 * rng.normal(size=100))):
        np.savez(tmp_path / "rows.npz", x=x, y=y)
        where = ("--repository", tmp_path / "models", "--name", name, "--calibration", tmp_path / "rows.npz")
        words = ("--certify", "--certify-budget", "60s", "--error-bars")
        done = program("export", GOLDEN / "pykan-hello-adapted/model", *where, *words)
        assert done.returncode == 0, done.stderr
    with serving(tmp_path / "models", transport="asgi") as server:
        context = browser.new_context(base_url=f"http://{server.http}/")
        page = watched(context, f"http://{server.http}/", seen)
        for place, state, words in (
            ("smooth/explain#row=0.3,-0.2", "unknown", "Error bar: ±"),
            ("smooth/explain#row=5,-0.2", "unknown", "No error bar: the row is outside of the certified box."),
            ("noisy/explain#row=0.3,-0.2", "bad", "Unreliable. Error bar: ±"),
        ):
            page.goto(f"ui/{place}")
            page.reload()
            shown = page.locator(f".cover.{state}.error-bar")
            shown.wait_for()
            assert shown.inner_text().startswith(words)
        assert "if the true function is no steeper than the Lipschitz bounds" in shown.inner_text()
        context.close()
    assert seen.harm() == []
