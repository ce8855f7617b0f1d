"""The setting `model_name`: the only model of a repository under another name, as KServe's clients expect it."""

import shutil
from pathlib import Path

import grpc
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import http_client, reload_tools, toy_model
from tests.support.command_line import kanserve, program
from tests.support.server_process import INFERENCE, KAN, serving
from tests.support.tiers import spread
from tests.support.wait import until

NAME = "iris-service"
POLL = 0.05


@spread("place", ["", "toy", "toy/1"], 1, ids=["repository", "model folder", "version folder"])
def test_the_only_model_has_the_name_of_the_setting(tmp_path: Path, place: str) -> None:
    """In calls, REST, statistics, metrics, log and the data of the web UI, and no longer under its own name."""
    toy_model.write(tmp_path)
    (tmp_path / "toy" / "config.pbtxt").write_text('name: "toy"\nmax_batch_size: 8\n')
    with serving(tmp_path / place, **http_client.way("asgi")[1], model_name=NAME) as server:
        assert reload_tools.index(server) == {(NAME, "1"): ("READY", "")}
        assert reload_tools.factor(server, NAME) == 1
        described = server.call(
            f"{KAN}DescribeModel", kan_pb2.DescribeModelRequest(model_name=NAME).SerializeToString()
        )
        assert kan_pb2.DescribeModelResponse.FromString(described).model_name == NAME
        config = server.call(f"{INFERENCE}ModelConfig", pb.ModelConfigRequest(name=NAME).SerializeToString())
        assert pb.ModelConfigResponse.FromString(config).config.name == NAME
        assert http_client.ask(server, f"/v2/models/{NAME}").json["name"] == NAME
        (counted,) = http_client.ask(server, "/v2/models/stats").json["model_stats"]
        assert counted["name"] == NAME
        shown = http_client.ask(server, "/v1/kan/overview").body.decode()
        assert NAME in shown
        assert [line["model"] for line in server.logged("model_loaded")] == [NAME]
        until(lambda: f'nv_inference_request_success{{model="{NAME}",version="1"}} 1' in server.metrics())
        assert "toy" not in server.metrics()
        with pytest.raises(grpc.RpcError, match="unknown model: 'toy'"):
            reload_tools.factor(server, "toy")


def test_a_reload_and_an_unload_use_the_name(tmp_path: Path) -> None:
    repository, made = tmp_path / "models", tmp_path / "made"
    reload_tools.swap(reload_tools.write(made / "1"), repository / "1")
    settings = {"model_name": NAME, "model_control": "explicit", "load_model": NAME}
    with serving(repository, **settings) as server:
        assert reload_tools.factor(server, NAME) == 1
        reload_tools.swap(reload_tools.write(made / "2", 2.0, version=2), repository / "2")
        message = pb.RepositoryModelLoadRequest(model_name=NAME).SerializeToString()
        server.call(f"{INFERENCE}RepositoryModelLoad", message)
        assert reload_tools.factor(server, NAME) == 2
        message = pb.RepositoryModelUnloadRequest(model_name=NAME).SerializeToString()
        server.call(f"{INFERENCE}RepositoryModelUnload", message)
        until(lambda: {state for state, _ in reload_tools.index(server).values()} == {"UNAVAILABLE"})
    with serving(repository, model_name=NAME, repository_poll_seconds=POLL) as server:
        reload_tools.swap(reload_tools.write(made / "3", 4.0), repository / "1")
        until(lambda: reload_tools.factor(server, NAME, "1") == 4)


def test_a_second_model_is_rejected_and_the_first_keeps_serving(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, model_name=NAME, repository_poll_seconds=POLL) as server:
        toy_model.write(tmp_path, "other")
        (line,) = server.logged("repository_unreadable")
        assert line["error_code"] == "repository-not-one-model"
        assert line["help"].startswith("pass the folder of one model")
        assert reload_tools.factor(server, NAME) == 1
        shutil.rmtree(tmp_path / "other")
        assert server.logged("repository_readable")


def test_a_check_reports_the_name_or_why_the_repository_cannot_have_it(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    flags = ("--grpc-port", 0, "--metrics-port", 0, "--check")
    done = kanserve("serve", tmp_path / "toy", *flags, "--model-name", NAME)
    assert done.returncode == 0, done.stdout
    assert f"the only model is served as '{NAME}'" in done.stdout
    toy_model.write(tmp_path, "other")
    for run, more in ((kanserve, flags), (program, flags[:-1])):  # a start ends with the same words
        done = run("serve", tmp_path, *more, KANSERVE_MODEL_NAME=NAME)
        assert done.returncode == 2
        output = " ".join((done.stdout + done.stderr).split())
        assert f"the repository has 2 models (other, toy), expected one to serve as '{NAME}'" in output
        assert "pass the folder of one model as the repository" in output
