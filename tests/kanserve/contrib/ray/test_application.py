"""Arguments and methods of the application of Ray Serve. tests/integration/deploy/test_ray.py runs it."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from kanserve.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray about pydantic
    pytest.importorskip("ray.serve", reason="Ray is not installed: the extra `ray` has it")

import kanserve.contrib.ray as kanserve_ray
from kanserve.contrib.ray import application

INFER, KAN = "inference.GRPCInferenceService", "kanserve.v1.KanService"


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        ({"repo": "models"}, "unknown argument 'repo'", "argument-unknown"),
        ({}, "no repository", "setting-missing"),
        (
            {"repository": ".", "settings": {"grpc_port": 9}},
            "setting grpc_port has no effect",
            "setting-without-effect",
        ),
        ({"repository": ".", "settings": {"thread": 9}}, "unknown setting 'thread'", "setting-unknown"),
    ],
)
def test_wrong_arguments_are_refused(args: dict[str, Any], message: str, code: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        kanserve_ray.build(args)
    assert caught.value.code == code


def test_the_deployment_has_the_arguments(tmp_path: Path) -> None:
    settings = {"reflection": True}
    app = kanserve_ray.build({"repository": str(tmp_path), "num_replicas": 3, "num_cpus": 2, "settings": settings})
    deployment = app._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert deployment.max_ongoing_requests == application.REQUESTS
    (chosen,) = deployment.init_args
    ports = {"grpc_port": 0, "metrics_port": 0}
    assert chosen == {"repository": str(tmp_path), "reflection": True, "threads": 2, **ports}


def test_every_method_is_registered_as_bytes() -> None:
    names = [name for _, name, _, _ in application.methods()]
    assert len(set(names)) == len(names)
    assert all(callable(getattr(application.Replica, name)) for name in names)
    registered: dict[str, Any] = {}

    class Server:
        def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
            for handler in handlers:
                registered.update(handler._method_handlers)

    kanserve_ray.add_services(None, Server())
    assert {f"/{INFER}/ModelInfer", f"/{KAN}/Explain", "/grpc.health.v1.Health/Watch"} <= set(registered)
    assert len(registered) == len(names)
    assert all(handler.request_deserializer is None for handler in registered.values())
    assert registered[f"/{INFER}/ModelStreamInfer"].request_streaming
    assert registered[f"/{KAN}/GetCurves"].response_streaming
    assert not registered[f"/{KAN}/GetCurves"].request_streaming


def test_the_configs_have_only_fields_that_ray_knows() -> None:
    from ray.serve.schema import ServeDeploySchema

    folder = Path(__file__).parents[4] / "service" / "deploy" / "ray"
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    service = yaml.safe_load((folder / "rayservice.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config
    schema = ServeDeploySchema.model_validate(config)
    (only,) = schema.applications
    assert set(only.args) <= set(application.ARGUMENTS)
    with pytest.raises(ValueError, match="import_pat"):
        ServeDeploySchema.model_validate(
            {**config, "applications": [{"name": "a", "import_pat": "kanserve.contrib.ray:build"}]}
        )
