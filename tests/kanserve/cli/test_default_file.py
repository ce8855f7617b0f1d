"""Default version in a repository folder: all servers of the folder follow it, and it survives their restarts."""

from pathlib import Path

import pytest

from tests.support import reload_tools, toy_model
from tests.support.command_line import document, kanserve, wrong_refusals
from tests.support.server_process import Server, serving
from tests.support.wait import until

NEWEST = {"repository_poll_seconds": 0.1, "version_policy": "latest:1"}  # the file overrides the policy


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Versions 1, 2 and 3 give 2, 4 and 8 times the toy's outputs."""
    for version in (1, 2, 3):
        reload_tools.write(tmp_path / "toy" / str(version), 2.0**version, version=version)
    return tmp_path


def run(command: str, repository: Path) -> tuple[str, str]:
    result = document(kanserve(*command.split(), "--repository", repository, "--json"))
    return result["version"], result["previous_version"]


def serve(factor: int, *servers: Server) -> None:
    """Wait until requests without a version have these outputs on each server."""
    for server in servers:
        until(lambda server=server: reload_tools.factor(server) == factor)


def chosen(server: Server) -> list[tuple[int, str]]:
    return [(line["version"], line["how"]) for line in reload_tools.events(server, "default_version_changed")]


def rejections(server: Server) -> int:
    return len(reload_tools.events(server, "default_file_rejected"))


def test_all_servers_of_a_folder_follow_its_file(three: Path) -> None:
    file = three / "toy" / "default"
    with serving(three, repository_poll_seconds=0.1) as first:
        with serving(three, **NEWEST) as second:
            serve(8, first, second)
            assert run("promote toy 2", three) == ("2", "3")
            serve(4, first, second)
            reload_tools.write(three / "toy" / "4", 16.0, version=4)
            for server in (first, second):
                until(lambda server=server: reload_tools.index(server).get(("toy", "4"), ("", ""))[0] == "READY")
            serve(4, first, second)
            done = kanserve("promote", "toy", "4", "--url", first.address)
            assert done.stdout == "toy: default version 4, previously 2\n"
            serve(16, first)
            assert run("promote toy 4", three) == ("4", "2")
            serve(16, second)
            until(lambda: chosen(first)[-1] == (4, "file"))
            assert run("rollback toy", three) == ("2", "4")
            serve(4, first, second)
        with serving(three, **NEWEST) as second:
            assert reload_tools.factor(second) == 4, "a restart keeps it, although the policy excludes the version"
            for text in ("", "2\n3\n4\n", "two\n", "0\n", "2 4\n", "9" * 65):
                before = [rejections(server) for server in (first, second)]
                file.write_text(text)
                for server, count in zip((first, second), before, strict=True):
                    until(lambda server=server, count=count: rejections(server) > count)
                    assert reload_tools.factor(server) == 4, "an invalid file changes nothing"
            file.unlink()
            serve(16, first, second)
        assert chosen(first) == [(2, "file"), (4, "promote"), (4, "file"), (2, "file"), (4, "file")]


def test_a_version_that_nobody_chose_does_not_stand_in_for_one_that_does_not_load(three: Path) -> None:
    toy_model.write(three, "toy", version=3, reference_scale=2.0)
    reload_tools.write(three / "toy" / "4", 16.0, version=4)
    file = three / "toy" / "default"
    file.write_text("3\n")
    with serving(three, repository_poll_seconds=0.1) as server:
        assert reload_tools.factor(server) == 4, "the next lower version serves"
        file.write_text("1\n")
        serve(2, server)
        file.write_text("3\n")
        until(lambda: len(reload_tools.events(server, "default_version_not_ready")) == 2)
        assert reload_tools.factor(server) == 2, "the previous default version keeps serving"
        lines = reload_tools.events(server, "default_version_not_ready")
        assert [(line["version"], line["default"]) for line in lines] == [(3, 2), (3, 1)]


def test_the_command_checks_the_version_and_the_file(three: Path) -> None:
    file = three / "toy" / "default"
    (three / "toy" / "3" / "model.onnx").write_bytes(b"cut")
    cases = {
        "promote toy 5": "unknown version '5' of toy",
        "promote toy 3": "model.onnx has 3 bytes",
        "promote tox 1": "did you mean 'toy'?",
        "promote toy 1 --url 127.0.0.1:1": "--repository cannot be combined with --url",
    }
    assert wrong_refusals(cases, "--repository", three) == []
    assert not file.exists()
    assert run("rollback toy", three) == ("1", "2"), "servers reject version 3, so version 2 was the default version"
    assert file.read_text() == "1\n2\n"
    assert "toy: version 1 is the default version on each server" in kanserve("models", three).stdout
    file.write_text("1\n")
    assert wrong_refusals({"rollback toy": "no valid version below 1"}, "--repository", three) == []
    for text, words in (("x\n", "default has 'x\\n', expected one version number"), ("7\n", "names version 7, which")):
        file.write_text(text)
        assert words in " ".join(kanserve("models", three).stdout.split())
    assert run("promote toy", three) == ("2", "7")
    assert not file.exists()
    file.symlink_to(three / "other")
    assert wrong_refusals({"promote toy 1": "is not a regular file"}, "--repository", three) == []
