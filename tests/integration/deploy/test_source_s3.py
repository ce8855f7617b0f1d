"""The guide of S3: rclone and the AWS CLI copy from a real S3 server into the repository of a live server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import model_stores, programs, reload_tools
from tests.support.compose_stack import until
from tests.support.model_stores import PAD, Desk, Load, commands, desk, ignored, survive
from tests.support.tiers import full

pytestmark = full("peer")

GUIDE = commands("from-s3.md", Publish=1, Fetch=3, Roll=2)
RCLONE, AWS = GUIDE["Fetch with rclone"][0], GUIDE["Fetch with the AWS CLI"][0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of an S3 server."""
    programs.source_tool("aws")  # without it, `make test` downloads no S3 server
    programs.program("rclone")
    with model_stores.s3_server(tmp_path_factory.mktemp("s3")) as variables:
        yield variables


@pytest.fixture
def here(store: dict[str, str], tmp_path: Path) -> Iterator[Desk]:
    """A desk whose commands reach a folder of the bucket."""
    path = f"{programs.folders('rclone')}{os.pathsep}{os.environ['PATH']}"
    replaced = {"PROVIDER=AWS": "PROVIDER=Other", "acme-models": f"acme-models/{tmp_path.name}"}
    with desk(tmp_path, replaced, PATH=path, **store | endpoint(store["AWS_ENDPOINT_URL"])) as made:
        yield made


def endpoint(url: str) -> dict[str, str]:
    """The variables of both tools for an address."""
    shell = {"RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENV_AUTH": "true"}  # as the guide exports them
    return shell | {
        "RCLONE_S3_ENDPOINT": url,
        "AWS_ENDPOINT_URL": url,
        "RCLONE_CONFIG": "/dev/null",
        "AWS_MAX_ATTEMPTS": "1",
    }


def publish(here: Desk, version: int, factor: float, pad: int = 0) -> None:
    """Publish a version as the guide does."""
    here.release(version, factor, pad)
    here.run(GUIDE["Publish a version"][0])


def stalled(here: Desk, block: str, store: dict[str, str]) -> None:
    """Run a block through a relay that stops halfway, and kill it."""
    server = store["AWS_ENDPOINT_URL"].removeprefix("http://")
    here.stalled(block, server, "toy/2/model.onnx.*", **endpoint("http://127.0.0.1:RELAY"))


def test_the_guide_runs_and_no_call_is_lost(here: Desk) -> None:
    (here.folder / "release" / "toy").mkdir(parents=True)
    (here.folder / "release" / "toy" / "config.pbtxt").write_text('name: "toy"\nversion_policy { all { } }\n')
    with Load(here) as load:
        publish(here, 2, 2.0)
        here.run(RCLONE)
        here.serves(2, 2.0)
        until(lambda: 2 in load.versions, "a call of version 2", 60)
        assert "READY" in here.run(GUIDE["Fetch with rclone"][1])
        at_once, for_all = GUIDE["Roll back"]
        here.run(at_once)
        assert here.factor() == 1.0
        here.release(1, 1.0)
        here.run(for_all)
        here.run(RCLONE)
        until(lambda: here.state(2) != "READY", "the policy", 60)
        assert here.factor() == 1.0
    assert load.versions == {1, 2}
    assert reload_tools.events(here.server, "model_load_failed") == [], "the manifest arrives last"


@pytest.mark.parametrize("tool", ["rclone", "aws"])
@pytest.mark.parametrize("order", ["manifest last", "any order"])
def test_a_killed_copy_is_not_served_nor_disturbs(here: Desk, store: dict[str, str], tool: str, order: str) -> None:
    block, left = fetch(tool), []

    def interrupted() -> None:
        publish(here, 2, 2.0, PAD)
        stalled(here, block if order == "manifest last" else block.replace(first_of(block), ""), store)
        version = here.models / "toy" / "2"
        left.extend(path.name for path in version.iterdir() if path.name.startswith("model.onnx"))
        assert left, "a part of the graph was copied"
        assert left != ["model.onnx"], "the copy is not complete"

    survive(here, interrupted, block, served=1.0, factor=2.0)
    if tool == "aws":  # rclone uses its partial file again
        assert set(left) < set(os.listdir(here.models / "toy" / "2"))
        assert ignored(here) == left


@pytest.mark.parametrize("tool", ["rclone", "aws"])
def test_a_killed_replacement_leaves_the_previous_content(here: Desk, store: dict[str, str], tool: str) -> None:
    block = fetch(tool)
    publish(here, 2, 2.0, PAD)
    here.run(block)
    here.serves(2, 2.0)

    def interrupted() -> None:
        publish(here, 2, 4.0, PAD)
        stalled(here, block, store)
        publish(here, 2, 8.0, PAD)  # rclone then has no use for its partial file

    survive(here, interrupted, block, served=2.0, factor=8.0)
    assert ignored(here), "the partial file"


def fetch(tool: str) -> str:
    """The commands of the guide for a tool."""
    return AWS if tool == "aws" else RCLONE


def first_of(block: str) -> str:
    """The command of a block that leaves out the manifest."""
    return next(line for line in block.splitlines() if "manifest.json" in line)
