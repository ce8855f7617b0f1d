"""Hot reload of a repository: valid versions load, and invalid ones do not affect the others."""

import datetime
import os
import shutil
import signal
import time
from pathlib import Path

import grpc

from kanexport.shared import manifest as manifests
from kanserve.repository import snapshot
from tests.support import reload_tools, toy_model
from tests.support.bad_requests import refused
from tests.support.command_line import document, kanserve
from tests.support.reload_tools import events, factor, index, ready, sample, shown, swap, truncate, write
from tests.support.server_process import Server, serving
from tests.support.wait import until

POLL = 0.05
SCAN = "kanserve_repository_scan_seconds"  # of the last one; no two take the same time


def serves(server: Server, expected: float, model: str = "toy") -> None:
    until(lambda: factor(server, model) == expected)


def beside(folder: Path, scale: float, version: int = 1) -> Path:
    """The files of a version, outside of the repository `folder`."""
    return write(folder.with_name(f"{folder.name}-{scale:g}"), scale, version=version)


def scanned(server: Server) -> None:
    """Wait for the end of a scan that begins now, or later."""
    for _ in range(2):
        before = shown(server, SCAN)
        until(lambda before=before: shown(server, SCAN) != before)


def test_a_new_version_a_new_content_and_a_new_model_come_in(tmp_path: Path) -> None:
    repository, toys, begun = tmp_path / "models", tmp_path / "made", time.time()
    item, two, three = (write(toys / str(n), 2.0**n, version=min(n, 2)) for n in (1, 2, 3))
    (item / "model.onnx.1a2b3c4d.partial").write_bytes(b"half of a graph")  # as a killed copy leaves
    swap(item, repository / "toy" / "1")
    with serving(repository, repository_poll_seconds=POLL) as server:
        assert factor(server) == 2
        swap(two, repository / "toy" / "2")
        serves(server, 4)
        assert factor(server, version="1") == 2
        swap(three, repository / "toy" / "2")
        serves(server, 8)
        assert index(server) == {("toy", "1"): ("READY", ""), ("toy", "2"): ("READY", "")}
        swap(write(toys / "other", 1.0, name="other", version=7), repository / "other" / "7")
        until(lambda: ("other", "7") in index(server) and index(server)["other", "7"][0] == "READY")
        assert ready(server)
        loaded = [(line["model"], line["version"]) for line in server.logged("model_loaded", count=4)]
        assert loaded == [("toy", 1), ("toy", 2), ("toy", 2), ("other", 7)]
        (line,) = events(server, "model_files_ignored")
        assert (line["model"], line["version"], line["files"]) == ("toy", 1, ["model.onnx.1a2b3c4d.partial"])
        text = server.metrics()
        assert sample(text, 'kanserve_model_loads_total{model="toy",version="2"}') == 2
        assert text.count('kanserve_model_info{digest="') == 3
        assert sample(text, "kanserve_repository_change_timestamp_seconds") >= begun
        assert sample(text, "kanserve_repository_sync_timestamp_seconds") == 0
        (repository / ".synchronized").touch()
        os.utime(repository / ".synchronized", (9, 9))
        until(lambda: sample(server.metrics(), "kanserve_repository_sync_timestamp_seconds") == 9)


def test_what_is_bad_disturbs_nobody_and_is_said_once(tmp_path: Path) -> None:
    """Row 14 of the reliability tests has the other faults."""
    directory = write(tmp_path / "toy" / "1")
    with serving(tmp_path, repository_poll_seconds=POLL) as server, reload_tools.kept(directory) as good:
        truncate(directory / "model.onnx", 40)
        until(lambda: index(server)["toy", "1"][1] != "")
        state, reason = index(server)["toy", "1"]
        assert state == "READY"
        assert "the files in the repository were rejected: model.onnx has 40 bytes" in reason
        assert str(tmp_path) not in reason
        listed = document(kanserve("models", "--url", server.address, "--json"))["models"]
        assert [(entry["state"], entry["reason"]) for entry in listed] == [("READY", reason)]
        assert f"toy version 1 is READY: {reason}" in kanserve("doctor", "--url", server.address, "--json").stdout
        assert (factor(server), ready(server)) == (1, True)
        rejected = 'kanserve_model_rejected{model="toy",version="1"}'
        until(lambda: shown(server, rejected) == 1)
        (line,) = server.logged("model_load_failed")
        assert line["error_code"] == "file-size-differs"
        assert reason.endswith(f": {line['reason']}; {line['help']}")
        server.process.send_signal(signal.SIGHUP)  # tried again, and nothing new to say
        scanned(server)
        assert len(events(server, "model_load_failed")) == 1
        swap(good, directory)
        until(lambda: index(server)["toy", "1"] == ("READY", ""))
        until(lambda: shown(server, rejected) == 0)
        assert len(server.logged("model_loaded")) == 1, "what was put back is what serves"


def test_a_version_whose_files_are_gone_serves_on(tmp_path: Path) -> None:
    directory = write(tmp_path / "toy" / "1")
    with serving(tmp_path, repository_poll_seconds=POLL) as server:
        shutil.rmtree(directory)
        missing = 'kanserve_model_files_missing{model="toy",version="1"}'
        until(lambda: sample(server.metrics(), missing) == 1)
        assert index(server)["toy", "1"][0] == "READY"
        assert "missing from the repository; it keeps serving" in index(server)["toy", "1"][1]
        assert factor(server) == 1
        swap(beside(tmp_path, 16.0), directory)
        serves(server, 16)
        until(lambda: sample(server.metrics(), missing) == 0)
        told = ["model_files_missing", "model_files_restored"]
        server.logged(*told, count=2)
        scanned(server)
        assert [line["event"] for line in events(server, *told)] == told


def test_the_latest_versions_stay_and_the_older_leave(tmp_path: Path) -> None:
    for version in (1, 2):
        write(tmp_path / "toy" / str(version), 2.0**version, version=version)
    with serving(tmp_path, repository_poll_seconds=POLL, version_policy="latest:1") as server:
        assert list(index(server)) == [("toy", "2")]
        toy_model.write(tmp_path, version=3, reference_scale=1.5)  # does not load: 2 stays
        assert len(server.logged("model_load_failed")) == 1
        failed = "Request for unknown model: 'toy' version 3 failed to load"
        with refused(grpc.StatusCode.FAILED_PRECONDITION, failed):
            factor(server, version="3")
        assert factor(server) == 4
        swap(beside(tmp_path, 16.0, 4), tmp_path / "toy" / "4")
        serves(server, 16)
        until(lambda: list(index(server)) == [("toy", "4")])
        assert [line["version"] for line in server.logged("model_unloaded")] == [2]
        until(lambda: 'version="2"' not in server.metrics())


def test_sighup_looks_at_once(tmp_path: Path) -> None:
    write(tmp_path / "toy" / "1")
    with serving(tmp_path, repository_poll_seconds=0) as server:
        swap(beside(tmp_path, 2.0), tmp_path / "toy" / "1")
        assert factor(server) == 1
        server.process.send_signal(signal.SIGHUP)
        serves(server, 2)


def test_a_repository_that_goes_away(tmp_path: Path) -> None:
    repository, aside = tmp_path / "models", tmp_path / "aside"
    write(repository / "toy" / "1")
    with serving(repository, repository_poll_seconds=POLL) as server:
        repository.rename(aside)
        scanned(server)
        repository.write_text("")
        until(lambda: sample(server.metrics(), "kanserve_repository_readable") == 0)
        server.logged("repository_unreadable")
        scanned(server)
        assert len(events(server, "repository_unreadable")) == 1
        assert (factor(server), ready(server)) == (1, True)
        repository.unlink()
        aside.rename(repository)
        until(lambda: sample(server.metrics(), "kanserve_repository_readable") == 1)
        assert len(server.logged("model_loaded")) == 1


def test_a_change_of_the_config_is_a_change(tmp_path: Path) -> None:
    write(tmp_path / "toy" / "1")
    with serving(tmp_path, repository_poll_seconds=POLL) as server:
        assert factor(server) == 1
        (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: 1\n")
        server.logged("model_loaded", count=2)
        until(lambda: "batch-size must be <= 1" in refusal(server))
        (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: {\n")
        until(lambda: "config.pbtxt has a syntax error" in index(server)["toy", "1"][1])
        (tmp_path / "toy" / "config.pbtxt").unlink()
        server.logged("model_loaded", count=3)
        until(lambda: not refusal(server))
        assert factor(server) == 1


def refusal(server: Server) -> str:
    """The reason for which the server rejects the rows of `factor`; empty if it accepts them."""
    try:
        factor(server)
    except grpc.RpcError as error:
        return str(error)
    return ""


def test_a_graph_without_a_manifest_comes_when_it_is_whole(tmp_path: Path) -> None:
    """It counts as whole if nothing has written to it for some time."""
    write(tmp_path / "toy" / "1")
    with serving(tmp_path, repository_poll_seconds=POLL, plain_onnx=True) as server:
        path = tmp_path / "plain" / "1" / manifests.MODEL_FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(toy_model.graph())
        (line,) = server.logged("model_loaded", model="plain")
        loaded = datetime.datetime.fromisoformat(line["timestamp"]).timestamp()
        assert loaded >= (path.stat().st_ctime_ns + snapshot.QUIET) / 1e9
        assert events(server, "model_load_failed") == []
