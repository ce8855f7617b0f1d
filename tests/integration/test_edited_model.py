"""An edited model on a live server under load: edit, shadow, promote and roll back without a lost call."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kanserve import Client
from kanserve.client import control
from tests.support.command_line import document, exported, kanserve
from tests.support.golden_cases import OWN
from tests.support.server_process import serving
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("load")

X = np.random.default_rng(0).uniform(-0.9, 0.9, (16, 2)).astype(np.float32)


class Load:
    """Calls without a version from several threads, until the end. Counts the versions that responded, and failures."""

    def __init__(self, address: str) -> None:
        self._address, self._ended = address, threading.Event()
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        with Client(self._address, retries=0) as client:
            while not self._ended.is_set():
                try:
                    result = client.infer("hello", X)
                except Exception as error:
                    self.failures.append(str(error))
                else:
                    self.versions[result.version] += 1

    def wait(self, version: str, calls: int = 20) -> None:
        """Until so many more calls had a response of the version."""
        seen = self.versions[version]
        until(lambda: self.versions[version] >= seen + calls)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Load, Client, str]]:
    models = exported(OWN / "pykan-hello-adapted" / "model", "hello", into=tmp_path)
    with (
        serving(models, repository_poll_seconds=0.1) as server,
        Client(server.address) as client,
        Load(server.address) as running,
    ):
        yield running, client, server.address


def states(client: Client) -> dict[str, str]:
    return {entry.version: entry.state for entry in client.index()}


def test_edit_shadow_promote_roll_back(tmp_path: Path, live: tuple[Load, Client, str]) -> None:
    """Before, bad edits change nothing on the server."""
    running, client, address = live
    edit = ("edit", tmp_path / "hello", "--edge", "0:0:0")
    for operation in (("--to", "1/x"), ("--shift", "nan"), ("--clamp", "2:1")):
        done = kanserve(*edit, *operation, "--json")
        assert done.returncode == 2, done.stderr
        assert json.loads(done.stdout)["error"]["hint"]
    running.wait("1")
    assert states(client) == {"1": "READY"}

    made = document(kanserve(*edit, "--to", "1.2*sin(x)", "--author", "ada", "--json"))
    until(lambda: states(client).get("2") == "READY")
    running.wait("1")
    assert set(running.versions) == {"1"}, "the edit does not serve by default"
    shown = kanserve("models", "hello", "--model-version", "2", "--url", address).stdout
    assert "hello version 2: edit of version 1 by ada: edge 0:0:0 to 1.2*sin(x)" in shown

    control.shadow(client, "hello", "2")
    until(lambda: control.shadow(client, "hello").rows >= 160)
    shadowed = control.shadow(client, "hello", stop=True)
    assert shadowed.rows_out_of_tolerance > 0
    assert 0 < shadowed.largest_difference <= 1.5 * made["difference"]["outputs"][0]["largest"]
    assert set(running.versions) == {"1"}

    control.promote(client, "hello", "2")
    running.wait("2")
    expected = client.infer("hello", X, version="2").outputs["y"]
    np.testing.assert_array_equal(client.infer("hello", X).outputs["y"], expected)
    control.rollback(client, "hello")
    seen = running.versions["2"]
    running.wait("1")
    assert running.versions["2"] <= seen + 3, "calls that were on their way"
    assert running.failures == []
