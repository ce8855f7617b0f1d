"""Models in a pod: the synchronization of a remote repository, and the links of a ConfigMap volume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import checkpoint, document, kanserve
from tests.support.exports import exported
from tests.support.helm_chart import CHART, only, program, render
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("package")

SECONDS = 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(checkpoint(tmp_path_factory.mktemp("state") / "net.safetensors", (2, 3, 1)), "hello")


def names(folder: Path) -> list[str]:
    """The visible files of a folder and its visible folders."""
    return sorted(
        path.name for path in folder.rglob("*") if not path.name.startswith(".") and ".incoming" not in path.parts
    )


def test_the_synchronization_copies_whole_versions(models: Path, tmp_path: Path) -> None:
    """Once before the server starts, then in a loop: new versions, changed files, removed versions, SIGTERM."""
    remote, store = tmp_path / "remote", tmp_path / "store"
    shutil.copytree(models, remote)
    store.mkdir()
    environment = {
        "PATH": f"{program('rclone').parent}:{os.environ['PATH']}",
        "SYNC_REMOTE": str(remote),
        "SYNC_FOLDER": str(store),
        "SYNC_SECONDS": "0.2",
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
    }
    command = ["/bin/sh", str(CHART / "files" / "sync.sh")]
    once = subprocess.run([*command, "once"], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert once.returncode == 0, once.stderr
    assert names(store) == names(remote)
    shown = document(kanserve("models", store, "--load", "--json"))
    assert [(row["name"], row["version"]) for row in shown["models"]] == [("hello", "1")]

    shutil.copytree(remote / "hello" / "1", remote / "hello" / "2")
    (remote / "hello" / "config.pbtxt").write_text("# another\n")
    loop = subprocess.Popen([*command, "loop"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: (store / "hello" / "config.pbtxt").read_text() == "# another\n")
        until(lambda: names(store) == names(remote))
        shutil.rmtree(remote / "hello" / "1")
        until(lambda: not (store / "hello" / "1").exists())
        until(lambda: names(store) == names(remote))
    finally:
        loop.send_signal(signal.SIGTERM)
        output, _ = loop.communicate(timeout=SECONDS)
    assert loop.returncode == 0, "the pod would wait for its grace period"
    assert output.count("published") == 2, output


def test_a_failed_or_doubtful_synchronization_keeps_the_versions(models: Path, tmp_path: Path) -> None:
    """A copy that ends early, a disk that is full, and a remote that lacks more than a person removes at once."""
    remote, store, script = tmp_path / "remote", tmp_path / "store", str(CHART / "files" / "sync.sh")
    all_of = {f"{model}/{version}" for model in ("hello", "other") for version in "123"}
    for version in all_of:
        shutil.copytree(models / "hello" / "1", remote / version)
    paths = {"SYNC_REMOTE": str(remote), "SYNC_FOLDER": str(store), "RCLONE_CONFIG": str(tmp_path / "none.conf")}
    environment = {"PATH": f"{program('rclone').parent}:{os.environ['PATH']}", "SYNC_SECONDS": "0.1", **paths}
    files = names(remote / "hello" / "1")

    def found() -> set[str]:
        entries = [path for path in store.glob("[!.]*/[!.]*") if path.is_dir()]
        assert [path for path in entries if names(path) != files] == [], "half versions"
        return {str(path.relative_to(store)) for path in entries}

    def once(
        without: tuple[str, ...] = (), command: str = "exec /bin/sh $0 once", **more: str
    ) -> tuple[bool, set[str]]:
        """Whether a synchronization succeeds if the remote lacks these paths, and the versions that the store has."""
        (store / ".synchronized").unlink(missing_ok=True)
        held = remote.rename(tmp_path / "held")
        shutil.copytree(
            held, remote, ignore=lambda at, _: [p.name for w in without for p in held.glob(w) if str(p.parent) == at]
        )
        arguments = ["/bin/sh", "-c", command, script]
        done = subprocess.run(arguments, env=environment | more, capture_output=True, text=True, timeout=SECONDS)
        shutil.rmtree(remote)
        held.rename(remote)
        assert (done.returncode == 0) == (store / ".synchronized").exists(), done.stderr
        return done.returncode == 0, found()

    assert once(SYNC_REMOTE=str(tmp_path / "absent")) == (False, set()), "the pod does not start"
    with (tmp_path / "log").open("w") as log:
        cut = environment | {"RCLONE_MAX_TRANSFER": "1", "RCLONE_TRANSFERS": "1"}
        loop = subprocess.Popen(["/bin/sh", script, "loop"], env=cut, stderr=log)
    try:
        until(lambda: "the synchronization failed" in (tmp_path / "log").read_text())
    finally:
        loop.terminate()
        loop.wait(SECONDS)
    assert found() == set()
    assert once(command="rclone sync $SYNC_REMOTE $SYNC_FOLDER/.incoming; ulimit -f 1; exec /bin/sh $0 once") == (
        False,
        set(),
    )
    assert once() == (True, all_of)
    assert once(("other/1",)) == (True, all_of - {"other/1"})
    rest = all_of - {"other/1"}
    for without in (("*",), ("hello",), ("hello/[12]", "other/3")):
        assert once((*without, "other/1")) == (False, rest), without
    assert once(("hello/3/manifest.json", "other/1")) == (True, rest)
    assert once(("hello", "other/1"), SYNC_REMOVE_ALL="true") == (True, {"other/2", "other/3"})


def test_a_version_in_a_config_map_loads(models: Path, tmp_path: Path) -> None:
    """The kubelet writes each path of the volume into a hidden folder, and links the first part of the path to it."""
    files = sorted(path.name for path in (models / "hello" / "1").iterdir())
    entry = {"name": "hello-1", "model": "hello", "version": 1, "files": files}
    values = {"insecure": True, "models": {"source": "configMap", "configMaps": [entry]}}
    pod = only(render(json.dumps(values)), "Deployment")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "models")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    for item in volume["projected"]["sources"][0]["configMap"]["items"]:
        path = tmp_path / "..2026_11_29" / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(models / "hello" / "1" / item["key"], path)
    (tmp_path / "hello").symlink_to("..data/hello")
    done = kanserve("models", tmp_path, "--load", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["name"] for row in document(done)["models"]] == ["hello"]
