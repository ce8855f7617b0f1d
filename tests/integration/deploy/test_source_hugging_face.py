"""The guide of Hugging Face: the real client moves versions from a hub on loopback to a live server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanserve.errors import LoadError
from kanserve.repository import layout
from tests.support import fake_hub, reload_tools, stack_tools
from tests.support.compose_stack import until
from tests.support.fake_hub import Hub
from tests.support.model_stores import Relay
from tests.support.source_desk import HALF, PAD, ROOT, Desk, Load, commands, desk, ignored

pytestmark = pytest.mark.slow

GUIDE = commands("from-hugging-face.md", Publish=1, Fetch=1, Pin=1, Roll=1, Download=1, The=1)
(UPLOAD,), (FETCH,), (PINNED,) = (GUIDE[title] for title in ("Publish a version", "Fetch a version", "Pin a commit"))
(DIRECT,), (CACHED,) = GUIDE["Download into the live repository"], GUIDE["The local cache"]


@pytest.fixture
def hub() -> Iterator[tuple[str, Hub]]:
    """An empty hub with a branch `production`."""
    stack_tools.source_tool("hf")
    with fake_hub.running() as (address, content):
        content.branches["production"] = content.branches["main"]
        yield address, content


@pytest.fixture
def here(hub: tuple[str, Hub], tmp_path: Path) -> Iterator[Desk]:
    """A desk whose commands reach the hub."""
    path = f"{stack_tools.SOURCES}{os.pathsep}{os.environ['PATH']}"
    variables = {"HF_ENDPOINT": f"http://{hub[0]}", "HF_TOKEN": "hf_of_this_test", "HF_HOME": str(tmp_path / "hf")}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    with desk(tmp_path, PATH=path, **variables) as made:
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        yield made


def publish(here: Desk, version: int, factor: float, pad: int = 0) -> None:
    """Publish a version to the branch, as the guide does."""
    shutil.rmtree(here.folder / "release", ignore_errors=True)
    reload_tools.write(here.folder / "release" / "toy" / str(version), factor, version=version, pad=pad)
    (here.folder / "release" / "toy" / "README.md").write_text("# a model card\n")
    here.run(UPLOAD)


def stalled(here: Desk, block: str, address: str) -> None:
    """Run a block through a relay that stops halfway, and kill it."""
    with Relay(address, HALF) as relay:
        here.killed(block, relay.stopped.is_set, HF_ENDPOINT=f"http://{relay.address}")


def test_servers_follow_a_branch_forward_and_back_and_no_call_is_lost(here: Desk, hub: tuple[str, Hub]) -> None:
    content = hub[1]
    with Load(here) as load:
        publish(here, 2, 2.0)
        assert set(content.commits[content.branches["production"]]) >= {"2/manifest.json", "README.md"}
        here.run(FETCH)
        assert here.factor() == 2.0
        before = content.branches["production"]
        publish(here, 3, 4.0)
        assert "2/manifest.json" not in content.commits[content.branches["production"]]
        here.run(FETCH)
        assert here.factor() == 4.0
        until(lambda: 3 in load.seen, "a call of version 3", 30)
        here.run(FETCH.replace("--revision production", "--revision " + before))
        assert here.factor() == 2.0
        (at_once,) = GUIDE["Roll back"]
        here.run(at_once)
        assert here.factor() == 1.0
    assert load.failed == []
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
    with Load(here) as load:
        stalled(here, block, hub[0])
        assert list(here.models.rglob("*.incomplete"))
        here.scans()
        assert here.state(2) != "READY"
        assert here.factor() == 1.0
        here.run(block)
        here.serves(2, 2.0)
    assert load.failed == []


def test_a_killed_replacement_leaves_the_previous_content(here: Desk, hub: tuple[str, Hub]) -> None:
    publish(here, 2, 2.0, PAD)
    here.run(DIRECT)
    here.serves(2, 2.0)
    publish(here, 2, 4.0, PAD)
    with Load(here) as load:
        stalled(here, DIRECT, hub[0])
        here.scans()
        assert here.factor() == 2.0
        here.run(DIRECT)
        here.serves(2, 4.0)
    assert load.failed == []


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
