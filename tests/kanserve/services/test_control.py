"""Explicit model control: load, unload, set default, roll back; over gRPC, HTTP and commands, in all workers."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import grpc
import pytest

from kanexport.shared import manifest as manifests
from kanexport.shared.sections import Edit, EditedEdge
from kanserve import Client
from kanserve.client import control
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.kanserve.server.test_supervisor import pids
from tests.support import bad_requests, credentials, http_client, reload_tools, toy_model
from tests.support.command_line import document, kanserve
from tests.support.server_process import INFERENCE, KAN, Server, serving
from tests.support.tiers import full
from tests.support.wait import until

Code = grpc.StatusCode


def load(server: Server, name: str, verb: str = "Load", **fields: object) -> None:
    kind = {"Load": pb.RepositoryModelLoadRequest, "Unload": pb.RepositoryModelUnloadRequest}[verb]
    server.call(f"{INFERENCE}RepositoryModel{verb}", kind(model_name=name, **fields).SerializeToString())


def refused(code: grpc.StatusCode, words: str, server: Server, *query: object, **fields: object) -> None:
    with bad_requests.refused(code, words):
        load(server, *query, **fields)


def states(server: Server) -> dict[str, str]:
    """By model and version, reasons where there are some."""
    return {f"{name}/{version}": why or state for (name, version), (state, why) in reload_tools.index(server).items()}


@full("combination")
def test_one_model_too_many_is_refused_until_there_is_room(tmp_path: Path) -> None:
    """Another version of a serving model does not count as another model."""
    repository = tmp_path / "models"
    reload_tools.write(repository / "toy" / "1")
    with serving(repository, max_models=1, model_control="explicit", load_model="*") as server:
        reload_tools.swap(reload_tools.write(tmp_path / "other", 1.0, name="other"), repository / "other" / "1")
        reload_tools.swap(reload_tools.write(tmp_path / "two", 2.0, version=2), repository / "toy" / "2")
        refused(Code.FAILED_PRECONDITION, "the server has 1 models, which is the limit max_models", server, "other")
        load(server, "toy")
        assert reload_tools.factor(server) == 2
        assert reload_tools.shown(server, 'kanserve_model_load_failures_total{reason="limit"}') == 1
        load(server, "toy", "Unload")
        load(server, "other")
        assert reload_tools.index(server)["other", "1"] == ("READY", "")


def test_models_are_there_when_they_are_asked_for(tmp_path: Path, transport: str) -> None:
    reload_tools.write(tmp_path / "toy" / "1")
    reload_tools.write(tmp_path / "other" / "3", 2.0, name="other", version=3)
    with serving(
        tmp_path, model_control="explicit", load_model="other", repository_poll_seconds=0.05, transport=transport
    ) as server:
        assert reload_tools.ready(server)
        assert states(server) == {"other/3": "READY", "toy/1": "unloaded"}
        refused(Code.NOT_FOUND, "failed to load 'nobody', no version is available", server, "nobody")
        refused(Code.NOT_FOUND, "no version is available", server, "../toy")
        supplied = {"config": pb.ModelRepositoryParameter(string_param="{}")}
        refused(Code.INVALID_ARGUMENT, "unrecognized load parameter 'config'.", server, "toy", parameters=supplied)
        refused(Code.NOT_FOUND, "unknown model: 'nobody'", server, "nobody", "Unload")
        load(server, "toy")
        assert reload_tools.factor(server) == 1
        reload_tools.swap(reload_tools.write(tmp_path.parent / f"{tmp_path.name}-new", 4.0), tmp_path / "toy" / "1")
        assert reload_tools.factor(server) == 1, "nobody asked for it"
        load(server, "toy")
        assert reload_tools.factor(server) == 4
        reload_tools.truncate(tmp_path / "toy" / "1" / "model.onnx", 10)
        refused(Code.FAILED_PRECONDITION, "failed to load 'toy', version 1: the version loaded", server, "toy")
        assert reload_tools.factor(server) == 4
        load(server, "toy", "Unload", parameters={"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)})
        with bad_requests.refused(Code.NOT_FOUND):
            reload_tools.factor(server)
        until(lambda: states(server) == {"other/3": "READY", "toy/1": "unloaded"})
        assert reload_tools.ready(server)
        assert reload_tools.factor(server, "other") == 2
        if server.http:  # the same over HTTP
            for path, body, status in (
                ("other/load", {"parameters": {"config": "{}"}}, 400),
                ("nobody/load", None, 404),
                ("other/load", None, 200),
                ("other/unload", {"parameters": {"unload_dependents": False}}, 200),
            ):
                assert http_client.ask(server, f"/v2/repository/models/{path}", body, "POST").status == status
            until(lambda: states(server) == {"other/3": "unloaded", "toy/1": "unloaded"})


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Versions 1, 2 and 3 give 2, 4 and 8 times the toy's outputs."""
    for version in (1, 2, 3):
        reload_tools.write(tmp_path / "toy" / str(version), 2.0**version, version=version)
    return tmp_path


def choose(server: Server, version: str = "", model: str = "toy", method: str = "Promote") -> tuple[str, str]:
    kind = {"Promote": kan_pb2.PromoteModelRequest, "Rollback": kan_pb2.RollbackModelRequest}[method]
    message = kind(model_name=model, **({"model_version": version} if version else {}))
    result = kan_pb2.VersionChoice.FromString(server.call(f"{KAN}{method}Model", message.SerializeToString()))
    return result.model_version, result.previous_version


def test_promote_and_roll_back(three: Path) -> None:
    with serving(three, repository_poll_seconds=0.1) as server:

        def back() -> dict:
            return document(kanserve("rollback", "toy", "--url", server.address, "--json"))

        assert reload_tools.factor(server) == 8
        assert back() == {"model": "toy", "version": "2", "previous_version": "3"}
        assert reload_tools.factor(server) == 4
        reload_tools.write(three / "toy" / "4", 16.0, version=4)
        until(lambda: reload_tools.index(server).get(("toy", "4"), ("", ""))[0] == "READY")
        assert reload_tools.factor(server) == 4, "a new version does not take over what was chosen"
        assert choose(server, "4") == ("4", "2")
        assert reload_tools.factor(server) == 16
        assert back()["version"] == "2"
        assert choose(server, "1") == ("1", "2")
        assert reload_tools.shown(server, 'kanserve_model_default{model="toy",version="1"}') == 1
        assert reload_tools.shown(server, 'kanserve_model_default{model="toy",version="2"}') == 0
        assert reload_tools.factor(server, version="3") == 8, "versions by number are as they were"
        assert choose(server, "1") == ("1", "2"), "the same choice again is none"
        assert back()["version"] == "2"
        assert choose(server, "1") == ("1", "2")
        assert choose(server) == ("4", "1")
        assert reload_tools.factor(server) == 16
        done = kanserve("promote", "toy", "7", "--url", server.address)
        assert (done.returncode, "version 7 is not found" in done.stderr) == (2, True), done.stderr
        done = kanserve("promote", "toy", "3", "--url", server.address)
        assert done.stdout == "toy: default version 3, previously 4\n"


EDIT = Edit(
    parent_version=1,
    parent_sha256="0" * 64,
    author="ada",
    edges=(
        EditedEdge(layer=0, source=2, destination=1, operation="zero"),
        EditedEdge(layer=1, source=0, destination=0, operation="clamp 0:1", form="fitted", error=0.25),
    ),
    rows=100,
    rows_from="rows.csv",
    largest=(0.5, 2.0),
    mean=(0.125, 0.25),
    changed=3,
)


def edited(folder: Path, **fields: object) -> Path:
    changed = dataclasses.replace(manifests.load(folder), edit=dataclasses.replace(EDIT, **fields))
    (folder / manifests.FILE_NAME).write_bytes(manifests.dumps(changed))
    return folder


def test_an_edit_serves_only_by_its_number_until_somebody_chooses_it(three: Path) -> None:
    edited(three / "toy" / "3")
    edited(three / "toy" / "2")
    shutil.copytree(three / "toy" / "3", three / "released" / "3")
    toy_model.edit(three / "released" / "3", name="released")
    reload_tools.write(three / "released" / "2", 4.0, name="released", version=2)
    done = kanserve("copy", "released", "2", "9", "--release", "--repository", three)
    assert (done.returncode, "version 2 of released is not an edit" in done.stderr) == (2, True), done.stderr
    kanserve("copy", "released", "3", "4", "--release", "--repository", three)
    how = {"repository_poll_seconds": 0.1, "version_policy": "latest:1"}  # edits do not count for the policy
    with serving(three, **how) as server, Client(server.address) as client:
        assert reload_tools.factor(server, "released") == 8, "an edit that is released is the default version"
        assert client.describe("released").edit == dataclasses.replace(EDIT, released=True)
        assert reload_tools.factor(server) == 2
        assert client.describe("toy", "3").edit == EDIT
        assert not client.describe("toy", "1").edit
        assert reload_tools.factor(server, version="3") == 8
        assert choose(server, "3") == ("3", "1")
        assert reload_tools.factor(server) == 8
        assert choose(server) == ("1", "3"), "without a number, the highest version that is not an edit"
        shown = document(kanserve("models", "toy", "--model-version", "3", "--url", server.address, "--json"))["model"]
        assert (shown["edit"]["parent_version"], shown["edit"]["author"]) == (1, "ada")
        words = kanserve("models", "toy", "--model-version", "3", "--url", server.address).stdout
        for line in (
            "edit: of version 1 by ada (manifest 000000000000)",
            "edited: edge 0:2:1 zero: exact",
            "edited: edge 1:0:0 clamp 0:1: fitted, within 0.25",
            "compared: outputs change by up to 2, on average by 0.25, on 100 rows (rows.csv), and the largest output",
        ):
            assert line in words, words
        reload_tools.write(three / "toy" / "5", 32.0, version=5)
        edited(reload_tools.write(three / "made", 16.0, version=6))
        reload_tools.swap(three / "made", three / "toy" / "6")
        until(lambda: reload_tools.factor(server) == 32)
        until(lambda: reload_tools.index(server).get(("toy", "6"), ("", ""))[0] == "READY")
        until(lambda: ("toy", "1") not in reload_tools.index(server))
        assert reload_tools.factor(server) == 32
    listed = kanserve("models", three).stdout
    assert "toy version 3: edit of version 1 by ada: edge 0:2:1 zero, edge 1:0:0 clamp 0:1" in listed


def test_there_is_nothing_to_choose_or_to_go_back_to(three: Path) -> None:
    """`toy` has an edit between its versions, `broken` a version that does not load, `edits` nothing else."""
    edited(three / "toy" / "2")
    toy_model.write(three, "broken")
    toy_model.write(three, "broken", version=2, reference_scale=2.0)
    edited(reload_tools.write(three / "edits" / "2", 4.0, name="edits", version=2))
    with serving(three, transport="grpcio") as server:
        back = document(kanserve("rollback", "toy", "--url", server.address, "--json"))
        assert back == {"model": "toy", "version": "1", "previous_version": "3"}
        with bad_requests.refused(Code.FAILED_PRECONDITION, "no ready version below 1"):
            choose(server, model="broken", method="Rollback")
        with bad_requests.refused(Code.FAILED_PRECONDITION, "is not ready"):
            choose(server, "2", model="broken")
        with bad_requests.refused(Code.NOT_FOUND, "'edits' has no available versions"):
            reload_tools.factor(server, "edits")
        assert reload_tools.factor(server, "edits", "2") == 4
        assert choose(server, "2", "edits") == ("2", "")
        assert reload_tools.factor(server, "edits") == 4
        with bad_requests.refused(Code.FAILED_PRECONDITION, "no ready version below 2"):
            choose(server, model="edits", method="Rollback")
        for verb in ("Load", "Unload"):  # while the repository decides, nobody else does
            refused(Code.UNAVAILABLE, "not allowed if polling is enabled", server, "toy", verb)


@full("combination")
def test_a_chosen_version_stays_when_others_come(three: Path) -> None:
    with serving(three, repository_poll_seconds=0.1, version_policy="latest:2") as server:
        assert choose(server, "2") == ("2", "3")
        reload_tools.write(three / "toy" / "4", 16.0, version=4)
        until(lambda: sorted(reload_tools.index(server)) == [("toy", "2"), ("toy", "3"), ("toy", "4")])
        assert reload_tools.factor(server) == 4


def test_the_log_says_who_chose(three: Path, tmp_path: Path) -> None:
    """Each process logs it: the one that gets the request, and the one that follows it."""
    created = credentials.write_tokens(tmp_path / "tokens.toml")
    with (
        serving(
            three, workers=2, transport="asgi", repository_poll_seconds=0, tokens=str(tmp_path / "tokens.toml")
        ) as server,
        Client(server.address, token=created["admin"]) as client,
    ):
        control.promote(client, "toy", "1")
        control.rollback(client, "toy")
        control.shadow(client, "toy", "2")
        control.shadow(client, "toy", stop=True)
        client.reset_statistics("toy")
        until(lambda: len(reload_tools.events(server, "statistics_reset")) == 2)
        chosen = reload_tools.events(server, "default_version_changed")
        reported = [(line["how"], line["model"], line["version"], line["before"]) for line in chosen]
        assert sorted(reported) == [("promote", "toy", 1, 3)] * 2 + [("rollback", "toy", 3, 1)] * 2
        for event in ("default_version_changed", "shadow_started", "shadow_stopped", "statistics_reset"):
            lines = reload_tools.events(server, event)
            assert {line.get("caller") for line in lines} == {"admin"}, lines
            assert len({line["request_id"] for line in lines}) == len(lines) / 2, lines


@full("load")
def test_all_workers_do_the_same(three: Path) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]

    def everyone(factor: float) -> bool:
        for _ in range(12):
            with grpc.insecure_channel(server.address, own) as channel:
                item = Server(server.process, server.port, 0, channel, server.log)
                if reload_tools.factor(item) != factor:
                    return False
        return True

    with serving(three, workers=2, transport="asgi", repository_poll_seconds=0) as server:
        assert choose(server, "1") == ("1", "3")
        until(lambda: everyone(2))
        reload_tools.swap(reload_tools.write(three / "made", 32.0), three / "toy" / "1")
        server.process.send_signal(signal.SIGHUP)  # which the process that watches passes on
        until(lambda: everyone(32))
        os.kill(min(pids(server)), signal.SIGKILL)
        assert server.logged("worker_exited")
        until(lambda: reload_tools.shown(server, "kanserve_workers") == 2)
        until(lambda: everyone(32))
