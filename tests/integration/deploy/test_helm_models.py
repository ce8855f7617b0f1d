"""Models in a pod: the synchronization of a remote repository, and the links of a ConfigMap volume."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import checkpoint, document, exported, kanserve
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


VERSIONS = {f"{model}/{version}" for model in ("hello", "other") for version in "123"}
SCRIPT = str(CHART / "files" / "sync.sh")


@pytest.fixture
def bucket(models: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of a synchronization from the folder `remote`, which has VERSIONS, to the folder `store`."""
    for version in VERSIONS:
        shutil.copytree(models / "hello" / "1", tmp_path / "remote" / version)
    folders = {"SYNC_REMOTE": str(tmp_path / "remote"), "SYNC_FOLDER": str(tmp_path / "store"), "SYNC_SECONDS": "0.1"}
    path = f"{program('rclone').parent}:{os.environ['PATH']}"
    return {"PATH": path, "RCLONE_CONFIG": str(tmp_path / "none.conf"), **folders}


def stored(store: Path) -> set[str]:
    """The versions of the store, which are complete."""
    entries = [path for path in store.glob("[!.]*/[!.]*") if path.is_dir()]
    assert [path for path in entries if not {"manifest.json", "model.onnx"} <= set(names(path))] == [], "half versions"
    return {str(path.relative_to(store)) for path in entries}


def once(bucket: dict[str, str], before: str = ":") -> tuple[bool, set[str]]:
    """Whether a synchronization succeeds after a command, and the versions that the store has. It dates a success."""
    store = Path(bucket["SYNC_FOLDER"])
    (store / ".synchronized").unlink(missing_ok=True)
    command = ["/bin/sh", "-c", f"{before}; exec /bin/sh $0 once", SCRIPT]
    done = subprocess.run(command, env=bucket, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode == 0) == (store / ".synchronized").exists(), done.stderr
    return done.returncode == 0, stored(store)


def test_a_failed_synchronization_publishes_nothing(bucket: dict[str, str], tmp_path: Path) -> None:
    """Without a remote, the pod does not start. A copy ends early, or the disk is full."""
    assert once({**bucket, "SYNC_REMOTE": str(tmp_path / "absent")}) == (False, set())
    with (tmp_path / "log").open("w") as log:
        cut = {**bucket, "RCLONE_MAX_TRANSFER": "1", "RCLONE_TRANSFERS": "1"}
        loop = subprocess.Popen(["/bin/sh", SCRIPT, "loop"], env=cut, stderr=log)
    try:
        until(lambda: "ynchronization failed" in (log := (tmp_path / "log").read_text()) or log.count("ERROR") > 20)
    finally:
        loop.terminate()
        loop.wait(SECONDS)
    assert stored(tmp_path / "store") == set()
    full = "rclone sync $SYNC_REMOTE $SYNC_FOLDER/.incoming; ulimit -f 1"
    assert once(bucket, full) == (False, set())


def test_a_remote_that_lacks_too_much_removes_nothing(bucket: dict[str, str], tmp_path: Path) -> None:
    remote, rest = tmp_path / "remote", VERSIONS - {"other/1"}
    assert once(bucket) == (True, VERSIONS)
    shutil.rmtree(remote / "other" / "1")
    (remote / "hello" / "3" / "manifest.json").rename(tmp_path / "manifest.json")  # a version that is incomplete
    assert once(bucket) == (True, rest)
    for kept in (set[str](), {"other/2", "other/3"}, {"hello/3", "other/2"}):
        (left := tmp_path / "left" / str(len(kept)) / "".join(kept).replace("/", "")).mkdir(parents=True)
        for version in kept:
            shutil.copytree(remote / version, left / version)
        assert once({**bucket, "SYNC_REMOTE": str(left)}) == (False, rest), kept
    kept, left = {"other/2"}, tmp_path / "one"
    shutil.copytree(remote / "other" / "2", left / "other" / "2")
    assert once({**bucket, "SYNC_REMOTE": str(left), "SYNC_REMOVE_ALL": "true"}) == (True, kept)


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
