"""Rows that violate a certificate, and the watch over them."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from kanexport.contract.manifest import Manifest
from kanexport.contract.sections import CertificateInfo
from kanserve.insight import certificate
from kanserve.insight.certificate import CertificateWatch, CertifiedRange
from kanserve.observability.series import Number
from kanserve.types import Array, ModelInfo, TensorInfo
from tests.support import toy_model

NAN, INF = float("nan"), float("inf")
INFO = ModelInfo("toy", 1, 8, (TensorInfo("x", "FP32", (-1, 3)),), (TensorInfo("y", "FP32", (-1, 2)),), "digest")


@pytest.fixture
def manifest() -> Manifest:
    stored = CertificateInfo(
        method="by hand",
        box="grid",
        low=(-1.0, -1.0, 0.5),
        high=(1.0, 1.0, 0.5),
        output_low=(0.0, -2.0),
        output_high=(1.0, 2.0),
    )
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
def test_rows_that_violate_a_certificate(
    manifest: Manifest, row: tuple[float, ...], output: tuple[float, ...], violates: bool
) -> None:
    x, y = (np.array([values, values], np.float32) for values in (row, output))
    assert CertifiedRange(manifest).violations(x, y).tolist() == [violates] * 2


def test_the_watch_counts_logs_and_pauses(manifest: Manifest, capfd: pytest.CaptureFixture[str]) -> None:
    switched: list[tuple[CertificateWatch | None, float]] = []
    resumed = asyncio.Event()

    def switch(watch: CertificateWatch | None) -> None:
        switched.append((watch, asyncio.get_running_loop().time()))
        if watch is not None:
            resumed.set()

    async def pause() -> float:
        """Seconds of the pause that an offer began."""
        resumed.clear()
        (_, began) = switched[-1]
        await asyncio.wait_for(resumed.wait(), 60)
        return switched[-1][1] - began

    async def watched() -> None:
        number = Number()
        watch = CertificateWatch(INFO, manifest, number, switch)
        x, good = np.full((4, 3), 0.5, np.float32), np.full((4, 2), 0.25, np.float32)

        def slowly() -> tuple[dict[str, Array], list[Array]]:
            begun = time.thread_time()
            while time.thread_time() < begun + 0.001:
                pass
            time.sleep(0.3)  # as on a busy machine; a pause by wall time would take 30 s
            return {"x": x}, [good]

        watch.offer(("layer1_in",), 1, lambda: pytest.fail("an output that the certificate does not have"))
        watch.offer(("y",), 1, slowly)
        assert (number.value, [one for one, _ in switched]) == (0, [watch, None])
        assert 0.999 * 0.001 / certificate.SHARE <= await pause() < 25
        assert [one for one, _ in switched] == [watch, None, watch]
        bad = good.copy()
        bad[2:] = 1.5
        watch.offer(("layer1_in", "y"), 1, lambda: ({"x": x}, [x, bad]))
        assert number.value == 2
        assert await pause() >= certificate.QUIET * 0.999
        watch.offer(("y",), 1, lambda: ({"x": x}, [good]))
        watch.end()
        await asyncio.sleep(0.5)
        assert switched[-1][0] is None

    asyncio.run(watched())


def test_a_part_of_a_large_request_is_checked(manifest: Manifest) -> None:
    async def watched() -> None:
        number = Number()
        watch = CertificateWatch(INFO, manifest, number, lambda watch: None)
        rows = 200_000
        x, y = np.full((rows, 3), 0.5, np.float32), np.full((rows, 2), 9, np.float32)
        watch.offer(("y",), 1, lambda: ({"x": x}, [y]))
        assert 10_000 < number.value <= certificate.NUMBERS / 5
        watch.end()

    asyncio.run(watched())
