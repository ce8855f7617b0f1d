"""The guide of Hugging Face: the real client moves versions from a hub on loopback to a live server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanserve.errors import LoadError
from kanserve.repository import layout
from tests.support import model_stores, programs, reload_tools
from tests.support.model_stores import PAD, Desk, Hub, Load, commands, desk, follow, ignored, survive
from tests.support.tiers import full

pytestmark = full("peer")

GUIDE = commands("from-hugging-face.md", Publish=1, Fetch=1, Pin=1, Roll=1, Download=1, The=1)
(UPLOAD,), (FETCH,), (PINNED,) = (GUIDE[title] for title in ("Publish a version", "Fetch a version", "Pin a commit"))
(DIRECT,), (CACHED,) = GUIDE["Download into the live repository"], GUIDE["The local cache"]


@pytest.fixture
def hub() -> Iterator[tuple[str, Hub]]:
    """An empty hub with a branch `production`."""
    programs.source_tool("hf")
    with model_stores.running() as (address, content):
        content.branches["production"] = content.branches["main"]
        yield address, content


@pytest.fixture
def here(hub: tuple[str, Hub], tmp_path: Path) -> Iterator[Desk]:
    """A desk whose commands reach the hub."""
    path = f"{programs.SOURCES}{os.pathsep}{os.environ['PATH']}"
    variables = {"HF_ENDPOINT": f"http://{hub[0]}", "HF_TOKEN": "hf_of_this_test", "HF_HOME": str(tmp_path / "hf")}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    with desk(tmp_path, PATH=path, **variables) as made:
        yield made


def publish(here: Desk, version: int, factor: float, pad: int = 0) -> None:
    """Publish a version to the branch, as the guide does."""
    shutil.rmtree(here.folder / "release", ignore_errors=True)
    here.release(version, factor, pad)
    (here.folder / "release" / "toy" / "README.md").write_text("# a model card\n")
    here.run(UPLOAD)


def stalled(here: Desk, block: str, address: str) -> None:
    """Run a block through a relay that stops halfway, and kill it."""
    here.stalled(block, address, HF_ENDPOINT="http://127.0.0.1:RELAY")


def test_servers_follow_a_branch_forward_and_back_and_no_call_is_lost(here: Desk, hub: tuple[str, Hub]) -> None:
    content, published = hub[1], []

    def publish_one(version: int, factor: float) -> None:
        publish(here, version, factor)
        published.append(content.branches["production"])

    with Load(here) as load:
        follow(here, load, publish_one, FETCH)
        before, after = published
        assert set(content.commits[before]) >= {"2/manifest.json", "README.md"}
        assert "2/manifest.json" not in content.commits[after]
        here.run(FETCH.replace("--revision production", "--revision " + before))
        assert here.factor() == 2.0
        (at_once,) = GUIDE["Roll back"]
        here.run(at_once)
        assert here.factor() == 1.0
    assert reload_tools.events(here.server, "model_load_failed") == []


def test_a_pinned_commit_stays_when_the_branch_moves(here: Desk, hub: tuple[str, Hub]) -> None:
    publish(here, 2, 2.0)
    pinned = hub[1].branches["production"]
    publish(here, 3, 4.0)
    here.run(PINNED, COMMIT=pinned)
    fetched = here.models / ".incoming" / "toy"
    assert sorted(path.name for path in fetched.glob("[0-9]*")) == ["2"]


@pytest.mark.parametrize("block", [FETCH, DIRECT], ids=["fetch", "direct"])
def test_a_killed_download_is_not_served(here: Desk, hub: tuple[str, Hub], block: str) -> None:
    publish(here, 2, 2.0, PAD)

    def interrupted() -> None:
        stalled(here, block, hub[0])
        assert list(here.models.rglob("*.incomplete"))

    survive(here, interrupted, block, served=1.0, factor=2.0)


def test_a_repository_of_the_hub_may_be_one_version(here: Desk, hub: tuple[str, Hub]) -> None:
    """The client then writes its cache, and files about the model, into the folder of the version."""
    release = reload_tools.write(here.folder / "release", 2.0, version=2)
    (release / "README.md").write_text("# a model card\n")
    here.run("hf upload acme/toy release . --revision production")
    here.run("hf download acme/toy --revision production --local-dir models/toy/2")
    here.serves(2, 2.0)
    assert ignored(here) == [".cache", ".gitattributes", "README.md"]


def test_the_cache_has_links_which_the_server_does_not_follow(here: Desk, hub: tuple[str, Hub]) -> None:
    publish(here, 2, 2.0)
    snapshot = Path(here.run("hf download acme/toy --revision production --quiet").strip())
    (candidate,) = layout.scan(snapshot, plain_onnx=False)
    with pytest.raises(LoadError, match=r"is a symbolic link"):
        layout.load(candidate, 2**30)
    here.run(CACHED)
    here.serves(2, 2.0)
