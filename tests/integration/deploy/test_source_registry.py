"""The guide of registries: oras moves versions from a real registry into the repository of a live server."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kanserve.repository import layout
from tests.support import model_stores, reload_tools
from tests.support.compose_stack import program
from tests.support.helm_chart import program as pinned
from tests.support.model_stores import PAD, ROOT, Desk, Load, commands, desk, follow, survive
from tests.support.tiers import full

pytestmark = full("peer")

GUIDE = commands("from-registry.md", Publish=2, Fetch=2, Roll=1, Image=2)
PUSH, TAG = GUIDE["Publish a version"]
FETCH, RESOLVE = GUIDE["Fetch a version"]
(BACK,) = GUIDE["Roll back"]
DIRECT = "oras pull --output models registry.example/models/toy:production"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry."""
    program("oras")
    with model_stores.registry(tmp_path_factory.mktemp("registry")) as found:
        yield found.replace("127.0.0.1", "localhost")


@pytest.fixture
def here(address: str, tmp_path: Path) -> Iterator[Desk]:
    """A desk whose commands reach models of this test in the registry. For localhost, oras uses plain HTTP."""
    with desk(tmp_path, {"registry.example/models": f"{address}/{tmp_path.name.lower().strip('_')}"}) as made:
        yield made


def publish(here: Desk, version: int, factor: float, pad: int = 0) -> None:
    """Publish a version and move the tag to it, as the guide does."""
    here.release(version, factor, pad)
    here.run(of_version(PUSH, version))
    here.run(of_version(TAG, version))


def of_version(block: str, version: int) -> str:
    """A block of the guide for another version than its 2."""
    return block.replace("toy:2", f"toy:{version}").replace("toy/2", f"toy/{version}")


def stalled(here: Desk, block: str, address: str, partial: str = "") -> None:
    """Run a block through a relay that stops halfway, and kill it, once it has the file `partial`."""
    path = here.local("registry.example/models").partition("/")[2]
    here.stalled(block.replace("registry.example/models", f"localhost:RELAY/{path}"), address, partial)


def test_servers_follow_a_tag_forward_and_back_and_no_call_is_lost(here: Desk) -> None:
    with Load(here) as load:
        publish(here, 1, 1.0)
        follow(here, load, lambda version, factor: publish(here, version, factor), FETCH)
        here.run(BACK)
        here.run(FETCH)
        assert here.factor() == 1.0
        assert here.factor("3") == 4.0
    assert here.run(RESOLVE).startswith("sha256:")
    assert reload_tools.events(here.server, "model_load_failed") == []


def test_a_moved_tag_with_another_content_under_the_same_number_is_an_error(here: Desk) -> None:
    publish(here, 1, 2.0)
    with pytest.raises(
        AssertionError, match="toy/1 has other content: publish each content with its own version number"
    ):
        here.run(FETCH)
    here.scans()
    assert here.factor() == 1.0


@pytest.mark.parametrize(("versions", "reason"), [((), "no version with a manifest"), ((1, 2), "several versions")])
def test_the_script_needs_exactly_one_version(tmp_path: Path, versions: tuple[int, ...], reason: str) -> None:
    for version in versions:
        reload_tools.write(tmp_path / "fetched" / "toy" / str(version), version=version)
    command = ["sh", ROOT / "examples" / "follow_tag.sh", tmp_path / "fetched", tmp_path / "models", "toy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert reason in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_killed_fetch_changes_nothing(here: Desk, address: str) -> None:
    publish(here, 2, 2.0, PAD)
    with Load(here):
        stalled(here, FETCH, address)
        assert list((here.models / ".incoming").rglob("*.onnx"))
        here.scans()
        assert here.state(2) == ""
        here.run(FETCH)
        assert here.factor() == 2.0
    assert reload_tools.events(here.server, "model_load_failed") == []


@pytest.mark.parametrize("served", [False, True])
def test_a_killed_pull_into_the_live_repository_is_not_served(here: Desk, address: str, served: bool) -> None:
    if served:
        publish(here, 2, 2.0, PAD)
        here.run(DIRECT)
        here.serves(2, 2.0)
    publish(here, 2, 4.0, PAD)

    def interrupted() -> None:
        stalled(here, DIRECT, address, "toy/2/model.onnx")
        graph = here.models / "toy" / "2" / "model.onnx"
        assert graph.stat().st_size < PAD, "it is written in place"

    survive(here, interrupted, DIRECT, served=2.0 if served else 1.0, factor=4.0)


def test_the_image_is_one_that_runtimes_mount(here: Desk, tmp_path: Path) -> None:
    """Its layer has the digest that its configuration names, and its files are a repository."""
    here.release(2, 2.0)
    image, upgrade = GUIDE["Image volumes on Kubernetes"]
    here.run(image)
    name = here.local("registry.example/models/all:2")
    manifest = json.loads(here.run(f"oras manifest fetch {name}"))
    config = json.loads(here.run(f"oras manifest fetch-config {name}"))
    (layer,) = manifest["layers"]
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    here.run(f"oras blob fetch --output layer.tar {name.rpartition(':')[0]}@{layer['digest']}")
    with tarfile.open(here.folder / "layer.tar") as archive:
        archive.extractall(here.folder / "mounted", filter="data")
    (candidate,) = layout.scan(here.folder / "mounted", plain_onnx=False)
    assert (candidate.name, candidate.version) == ("toy", 2)
    rendered = here.run(
        upgrade.replace("helm upgrade", f"{pinned('helm')} template")
        .replace("service/deploy", str(ROOT / "service" / "deploy"))
        .replace("--reuse-values", "--set insecure=true,image.repository=r --show-only templates/deployment.yaml")
    )
    volumes = yaml.safe_load(rendered)["spec"]["template"]["spec"]["volumes"]
    (found,) = (volume["image"]["reference"] for volume in volumes if "image" in volume)
    assert found == f"{name.rpartition(':')[0]}@{here.run(f'oras resolve {name}').strip()}"
