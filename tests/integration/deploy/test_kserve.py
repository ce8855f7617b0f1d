"""KServe: strict checks of its objects without a cluster, and a real server with the variables of the runtime."""

import copy
import functools
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.helm_chart import passes
from tests.support.programs import free_ports
from tests.support.tiers import full
from tests.support.wait import until
from tools.manifests import download, kserve, schemas

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "service" / "deploy" / "kserve"
FILES = sorted(FOLDER.glob("*.yaml"))
RUNTIME = FOLDER / "clusterservingruntime.yaml"
GUIDE = ROOT / "docs" / "guides" / "serve" / "kserve.md"
VERSIONS = ("1.27", "1.37")  # of Kubernetes
SECONDS = 60
QUERY = ("spec", "predictor", "autoScaling", "metrics", 0, "external", "metric", "query")
Document = dict[str, Any]


@functools.cache
def documents() -> dict[str, Document]:
    """The object in each file. Skips the test if the schemas cannot be had."""
    try:
        download.schemas()
        download.wheel(download.KSERVE)
    except download.Unavailable as error:
        pytest.skip(f"the schemas of Kubernetes or KServe cannot be downloaded: {error}")
    return {path.name: yaml.safe_load(path.read_text()) for path in FILES}


def problems(changed: dict[str, Document], version: str = VERSIONS[-1]) -> list[str]:
    """The findings of all checks of these files, with the runtime to which they refer."""
    found = [problem for document in changed.values() for problem in schemas.problems(document, version)]
    return found or kserve.problems(list(({RUNTIME.name: documents()[RUNTIME.name]} | changed).values()))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_have_only_fields_and_references_that_exist(version: str) -> None:
    assert len(FILES) >= 7
    assert problems(documents(), version) == []


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        (RUNTIME.name, ("spec", "containers", 0, "ports", 0, "name"), "http", "ports"),
        (RUNTIME.name, ("spec", "containers", 0, "name"), "kanserve", "name: kanserve"),
        (RUNTIME.name, ("spec", "containers", 0, "env", 1, "name"), "KANSERVE_MODLE_NAME", "unknown variable"),
        (RUNTIME.name, ("spec", "containers", 0, "env", 1, "value"), "hello", "KANSERVE_MODEL_NAME: hello"),
        (RUNTIME.name, ("spec", "containers", 0, "readinessProbe", "grpc", "port"), 8002, "port 8002"),
        (RUNTIME.name, ("spec", "annotations", "prometheus.io/port"), "8080", "prometheus.io/port: 8080"),
        ("inferenceservice-s3.yaml", ("spec", "predictor", "model", "runtime"), "kansrve", "runtime kansrve"),
        ("inferenceservice-s3.yaml", ("spec", "predictor", "model", "protocolVersion"), "v3", "protocolVersion v3"),
        ("inferenceservice-s3.yaml", ("spec", "predictor", "model", "storageUri"), "s4://m", "storage s4://m"),
        ("inferenceservice-s3.yaml", ("spec", "predictor", "minReplicas"), "two", "not of type 'integer'"),
        ("inferenceservice-keda.yaml", QUERY, "sum(kanserve_inflght_requests)", "no metric kanserve_inflght_requests"),
        ("inferenceservice-canary.yaml", ("spec", "canary", 0, "predictor", "model", "modelFormat", "name"), "k", "k"),
        ("inferenceservice-canary.yaml", ("spec", "canary", 0, "predictor", "model", "name"), "", "canary model.name"),
    ],
)
def test_each_wrong_value_is_noticed(file: str, path: tuple[str | int, ...], value: Any, message: str) -> None:
    changed = copy.deepcopy(documents()[file])
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert message in " ".join(problems({file: changed}))


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[tuple[Document, dict[str, str], int, int]]:
    """A server with the variables of the runtime for the InferenceService `iris`, as the controller fills them in: the
    container, its variables, its port and its metrics port."""
    toy_model.write(tmp_path)
    container = yaml.safe_load(RUNTIME.read_text())["spec"]["containers"][0]
    ports = [*free_ports("grpc", "metrics").values()]
    env = dict(CLEAN)
    for variable in container["env"]:
        value = variable["value"].replace("{{.Name}}", "iris").replace("0.0.0.0", "127.0.0.1")
        env[variable["name"]] = value.replace(kserve.MODELS, str(tmp_path / "toy"))
    env |= {"KANSERVE_GRPC_PORT": str(ports[0]), "KANSERVE_METRICS_PORT": str(ports[1])}
    env["KANSERVE_DRAIN_DELAY_SECONDS"] = "0"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, *container["args"]], env=env, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or passes(container["startupProbe"], {"h2c": ports[0]}))
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield container, env, ports[0], ports[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0, (tmp_path / "log").read_text()


@full("package")
def test_the_variables_of_the_runtime_serve_the_name_of_a_service(
    pod: tuple[Document, dict[str, str], int, int],
) -> None:
    pytest.importorskip("h2corn")
    container, _, port, metrics_port = pod
    for name in ("readinessProbe", "livenessProbe"):  # a probe may take too long on a busy machine
        until(lambda name=name: passes(container[name], {"h2c": port}))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/iris/ready", timeout=SECONDS) as response:
        assert response.status == 200
    path = yaml.safe_load(RUNTIME.read_text())["spec"]["annotations"]["prometheus.io/path"]
    for scraped in (metrics_port, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{scraped}{path}", timeout=SECONDS) as response:
            assert "kanserve_model_info{" in (text := response.read().decode())
            assert 'model="iris"' in text


def test_the_guide_names_each_file_and_only_those() -> None:
    named = set(re.findall(r"[\w-]+\.yaml", GUIDE.read_text())) - {"values.yaml"}
    assert named == {path.name for path in FILES}
