"""A repository that changes under a running server: what is good comes in, what is bad disturbs nobody."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from kanexport import manifest as contract
from tests.kanserve import live, toy
from tests.kanserve.running import Server, serving, wait_until

POLL = 0.1


def serves(server: Server, factor: float, version: str = "") -> None:
    """Soon."""
    wait_until(lambda: live.factor(server, version=version) == factor)


def test_a_new_version_a_new_content_and_a_new_model_come_in(tmp_path: Path) -> None:
    repository, toys = tmp_path / "models", tmp_path / "made"
    one, two, three = (live.write(toys / str(n), 2.0**n, version=min(n, 2)) for n in (1, 2, 3))
    live.swap(one, repository / "toy" / "1")
    with serving(repository, poll=POLL) as server:
        assert live.factor(server) == 2
        live.swap(two, repository / "toy" / "2")
        serves(server, 4)
        assert live.factor(server, version="1") == 2
        live.swap(three, repository / "toy" / "2")
        serves(server, 8)
        assert live.index(server) == {("toy", "1"): ("READY", ""), ("toy", "2"): ("READY", "")}
        live.swap(live.write(toys / "other", 1.0, name="other", version=7), repository / "other" / "7")
        wait_until(lambda: ("other", "7") in live.index(server) and live.index(server)["other", "7"][0] == "READY")
        assert live.ready(server)
        loaded = [(line["model"], line["version"]) for line in live.events(server, "loaded")]
        assert loaded == [("toy", 1), ("toy", 2), ("toy", 2), ("other", 7)]
        text = server.metrics()
        assert live.sample(text, 'kanserve_model_loads_total{model="toy",version="2"}') == 2
        assert text.count('kanserve_model_info{digest="') == 3
        assert abs(live.sample(text, "kanserve_repository_change_timestamp_seconds") - time.time()) < 60


def replace(directory: Path, factor: float = 4.0) -> None:
    """Another content, written over the old one."""
    live.write(directory, factor)


DAMAGE = {
    "a file that is cut": lambda d: live.truncate(d / "model.onnx", 40),
    "a file that is empty": lambda d: live.truncate(d / "edges_l0.onnx"),
    "other bytes": lambda d: (d / "model.onnx").write_bytes(b"x" * (d / "model.onnx").stat().st_size),
    "a manifest that is cut": lambda d: live.truncate(d / contract.FILE_NAME, 100),
    "a file that is gone": lambda d: (d / "model.onnx").unlink(),
    "a file too many": lambda d: (d / "more").write_bytes(b""),
    "numbers that are not the graph's": lambda d: toy.edit(
        d, reference=contract.Reference(inputs=((1.0, 2.0, 3.0),), outputs=((1.0, 2.0),), tolerance=1e-5)
    ),
}
REASONS = ("integrity", "integrity", "integrity", "manifest", "integrity", "integrity", "reference")


def test_what_is_bad_disturbs_nobody_and_is_said_once(tmp_path: Path) -> None:
    directory = live.write(tmp_path / "toy" / "1")
    with serving(tmp_path, poll=POLL) as server, live.kept(directory) as good:
        for number, damage in enumerate(DAMAGE.values(), 1):
            damage(directory)
            wait_until(lambda: live.index(server)["toy", "1"][1] != "")
            state, reason = live.index(server)["toy", "1"]
            assert state == "READY"
            assert "what was loaded before serves" in reason
            assert str(tmp_path) not in reason
            assert live.factor(server) == 1
            time.sleep(3 * POLL)
            assert len(live.events(server, "load failed")) == number, "one line for each change"
            assert live.sample(server.metrics(), 'kanserve_model_refused{model="toy",version="1"}') == 1
            live.swap(good, directory)
            wait_until(lambda: live.index(server)["toy", "1"] == ("READY", ""))
        text = server.metrics()
        for reason in set(REASONS):
            name = f'kanserve_model_load_failures_total{{reason="{reason}"}}'
            assert live.sample(text, name) == REASONS.count(reason)
        assert live.ready(server)
        assert len(live.events(server, "loaded")) == 1, "what was put back is what serves"


def test_a_version_whose_files_are_gone_serves_on(tmp_path: Path) -> None:
    directory = live.write(tmp_path / "toy" / "1")
    with serving(tmp_path, poll=POLL) as server, live.kept(directory) as good:
        aside = shutil.copytree(good, tmp_path.parent / f"{tmp_path.name}-aside")
        shutil.rmtree(directory)
        missing = 'kanserve_model_missing{model="toy",version="1"}'
        wait_until(lambda: live.sample(server.metrics(), missing) == 1)
        assert live.index(server)["toy", "1"][0] == "READY"
        assert "not in the repository any more" in live.index(server)["toy", "1"][1]
        assert live.factor(server) == 1
        live.swap(live.write(tmp_path.parent / f"{tmp_path.name}-new", 16.0), directory)
        serves(server, 16)
        assert live.sample(server.metrics(), missing) == 0
        shutil.rmtree(aside)
        time.sleep(3 * POLL)
        assert [line["event"] for line in live.events(server, "missing", "there again")] == ["missing", "there again"]


def test_half_of_a_version_is_nothing(tmp_path: Path) -> None:
    live.write(tmp_path / "toy" / "1")
    with serving(tmp_path, poll=POLL) as server:
        whole = live.write(tmp_path.parent / f"{tmp_path.name}-whole", 2.0, version=2)
        half = tmp_path / "toy" / "2"
        half.mkdir()
        for path in sorted(whole.iterdir(), key=lambda path: path.name == contract.FILE_NAME):
            shutil.copy(path, half)
            if path.name != contract.FILE_NAME:
                time.sleep(2 * POLL)
                assert list(live.index(server)) == [("toy", "1")]
        serves(server, 2)
        assert live.events(server, "load failed") == []


def test_a_new_version_that_fails_leaves_the_server_ready(tmp_path: Path) -> None:
    live.write(tmp_path / "toy" / "1")
    with serving(tmp_path, poll=POLL) as server:
        toy.write(tmp_path, version=2, reference_scale=1.5)
        wait_until(lambda: live.index(server).get(("toy", "2"), ("", ""))[0] == "UNAVAILABLE")
        assert live.ready(server)
        assert live.factor(server) == 1
        shutil.rmtree(tmp_path / "toy" / "2")
        wait_until(lambda: list(live.index(server)) == [("toy", "1")])


def test_the_latest_versions_stay_and_the_older_leave(tmp_path: Path) -> None:
    for version in (1, 2):
        live.write(tmp_path / "toy" / str(version), 2.0**version, version=version)
    with serving(tmp_path, poll=POLL, version_policy="latest:1") as server:
        assert list(live.index(server)) == [("toy", "2")]
        toy.write(tmp_path, version=3, reference_scale=1.5)  # does not load: 2 stays
        wait_until(lambda: len(live.events(server, "load failed")) == 1)
        assert live.factor(server) == 4
        live.swap(live.write(tmp_path.parent / f"{tmp_path.name}-four", 16.0, version=4), tmp_path / "toy" / "4")
        serves(server, 16)
        wait_until(lambda: list(live.index(server)) == [("toy", "4")])
        assert [line["version"] for line in live.events(server, "unloaded")] == [2]
        assert 'version="2"' not in server.metrics()


def test_a_mounted_configmap_is_swapped(tmp_path: Path) -> None:
    """As the kubelet does it: a folder for each content, a link to the one that counts, links to its files."""
    for at, factor in enumerate((1.0, 2.0)):
        live.write(tmp_path / f"..{at}", factor)
    (tmp_path / "..data").symlink_to("..0")
    for path in (tmp_path / "..0").iterdir():
        (tmp_path / path.name).symlink_to(f"..data/{path.name}")
    with serving(tmp_path, poll=POLL) as server:
        assert live.factor(server) == 1
        (tmp_path / "..data_tmp").symlink_to("..1")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        shutil.rmtree(tmp_path / "..0")
        serves(server, 2)
        assert list(live.index(server)) == [("toy", "1")]
        assert live.events(server, "load failed", "missing") == []


def test_sighup_looks_at_once(tmp_path: Path) -> None:
    live.write(tmp_path / "toy" / "1")
    with serving(tmp_path, poll=0) as server:
        live.swap(live.write(tmp_path.parent / f"{tmp_path.name}-new", 2.0), tmp_path / "toy" / "1")
        time.sleep(0.3)
        assert live.factor(server) == 1
        server.process.send_signal(signal.SIGHUP)
        serves(server, 2)


@pytest.mark.parametrize("becomes", ["nothing", "a file"])
def test_a_repository_that_goes_away(tmp_path: Path, becomes: str) -> None:
    repository, aside = tmp_path / "models", tmp_path / "aside"
    live.write(repository / "toy" / "1")
    with serving(repository, poll=POLL) as server:
        repository.rename(aside)
        if becomes == "a file":
            repository.write_text("")
        wait_until(lambda: live.sample(server.metrics(), "kanserve_repository_readable") == 0)
        time.sleep(3 * POLL)
        assert len(live.events(server, "the repository cannot be read")) == 1
        assert (live.factor(server), live.ready(server)) == (1, True)
        if becomes == "a file":
            repository.unlink()
        aside.rename(repository)
        wait_until(lambda: live.sample(server.metrics(), "kanserve_repository_readable") == 1)
        assert len(live.events(server, "loaded")) == 1
