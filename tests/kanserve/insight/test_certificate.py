"""Rows that violate a certificate, and the watch over them."""

import asyncio
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kanexport.shared.manifest import Manifest
from kanexport.shared.sections import CertificateInfo
from kanserve.insight import certificate
from kanserve.insight.certificate import CertificateWatch, CertifiedRange
from kanserve.observability.metrics import Number
from kanserve.types import ModelInfo, TensorInfo
from tests.support import toy_model

NAN, INF = float("nan"), float("inf")
INFO = ModelInfo("toy", 1, 8, (TensorInfo("x", "FP32", (-1, 3)),), (TensorInfo("y", "FP32", (-1, 2)),), "digest")


@pytest.fixture
def manifest() -> Manifest:
    stored = CertificateInfo(
        method="by hand", box="grid", low=(-1.0, -1.0, 0.5), high=(1.0, 1.0, 0.5), output_low=(0.0, -2.0),
        output_high=(1.0, 2.0),
    )  # fmt: skip
    return dataclasses.replace(toy_model.manifest("toy"), certificate=stored)


@pytest.mark.parametrize(
    ("row", "output", "violates"),
    [
        ((0, 0, 0.5), (0.5, 0), False),
        ((1, -1, 0.5), (0, -2), False),  # on the borders
        ((0, 0, 0.5), (1.1, 0), True),
        ((0, 0, 0.5), (0.5, -2.5), True),
        ((0, 0, 0.5), (NAN, 0), True),
        ((0, 0, 0.5), (0, INF), True),
        ((1.001, 0, 0.5), (9, 9), False),  # outside of the box, the certificate says nothing
        ((0, 0, 0.50001), (9, 9), False),
        ((NAN, 0, 0.5), (NAN, NAN), False),
    ],
)
def test_violating_rows(manifest: Manifest, row: tuple[float, ...], output: tuple[float, ...], violates: bool) -> None:
    x, y = (np.array([values, values], np.float32) for values in (row, output))
    assert CertifiedRange(manifest).violations(x, y).tolist() == [violates] * 2


async def test_the_watch_counts_logs_and_pauses(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    switched: list[CertificateWatch | None] = []
    pauses: list[tuple[float, asyncio.Handle]] = []
    processor = iter((1.0, 1.001, 2.0, 2.0, 3.0, 3.0))  # so that a busy machine does not make a pause longer

    def call_later(seconds: float, call: Callable[..., None], *arguments: Any) -> asyncio.Handle:
        pauses.append((seconds, asyncio.Handle(call, arguments, loop)))
        return pauses[-1][1]

    loop, timers = asyncio.get_running_loop(), types.SimpleNamespace(call_later=call_later)
    monkeypatch.setattr(certificate, "asyncio", types.SimpleNamespace(get_running_loop=lambda: timers))
    monkeypatch.setattr(certificate, "time", types.SimpleNamespace(thread_time=lambda: next(processor)))
    number = Number()
    watch = CertificateWatch(INFO, manifest, number)
    watch.start(switched.append)
    x, good = np.full((4, 3), 0.5, np.float32), np.full((4, 2), 0.25, np.float32)
    watch.offer(("layer1_in",), 1, lambda: pytest.fail("an output that the certificate does not have"))
    watch.offer(("y",), 1, lambda: ({"x": x}, [good]))
    assert (number.value, switched) == (0, [watch, None])
    pauses[-1][1]._run()
    assert switched == [watch, None, watch]
    bad = good.copy()
    bad[2:] = 1.5
    watch.offer(("layer1_in", "y"), 1, lambda: ({"x": x}, [x, bad]))
    assert number.value == 2
    watch.offer(("y",), 1, lambda: ({"x": x}, [good]))
    watch.end()
    assert [pause for pause, _ in pauses] == [pytest.approx(0.001 / certificate.SHARE), certificate.QUIET, 0.0]
    assert (switched[-1], pauses[-1][1].cancelled()) == (None, True)


async def test_a_part_of_a_large_request_is_checked(manifest: Manifest) -> None:
    number = Number()
    watch = CertificateWatch(INFO, manifest, number)
    rows = 200_000
    x, y = np.full((rows, 3), 0.5, np.float32), np.full((rows, 2), 9, np.float32)
    watch.offer(("y",), 1, lambda: ({"x": x}, [y]))
    assert 10_000 < number.value <= certificate.NUMBERS / 5
    watch.end()
