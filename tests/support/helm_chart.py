"""The Helm chart by the real program, checks of the result, misspelled fields, and probes of its containers."""

import functools
import json
import ssl
import subprocess
import urllib.request
from itertools import combinations
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2

from tools.manifests import download, references, schemas

ROOT = Path(__file__).parents[2]
CHART = ROOT / "service" / "deploy" / "helm" / "kanserve"
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
OLDEST, NEWEST = "1.27", "1.37"
# Values whose keys the user chooses.
CHOSEN = ("labels", "annotations", "deploymentAnnotations", "podLabels", "podAnnotations", "nodeSelector")
IMAGE = ("--set", "image.repository=registry.example/kanserve")  # which the examples and the guide have, too
Document = dict[str, Any]


@functools.cache
def program(name: str) -> Path:
    """A program that the tests download. Skips the test if it or the schemas of Kubernetes cannot be had."""
    try:
        download.schemas()
        return download.program(name)
    except download.Unavailable as error:
        pytest.skip(f"{name} or the schemas of Kubernetes cannot be downloaded: {error}")


def run(*arguments: str, values: str = "") -> subprocess.CompletedProcess[str]:
    """One run of helm. `values`: text of a values file on its input."""
    command = [str(program("helm")), *arguments, *(("--values", "-") if values else ())]
    return subprocess.run(command, input=values, capture_output=True, text=True, timeout=120)


def documents(text: str) -> list[Document]:
    """The objects of a YAML text, by libyaml, in 10% of the time."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@functools.cache
def render(values: str, version: str = NEWEST) -> list[Document]:
    """The objects of a release `r` in the namespace `models`, for the text of a values file."""
    done = run("template", "r", str(CHART), "--namespace", "models", "--kube-version", version, *IMAGE, values=values)
    assert done.returncode == 0, f"{values}\n{done.stderr}"
    return documents(done.stdout)


def failure(values: str, version: str = NEWEST) -> str:
    """The message with which helm rejects values."""
    done = run("template", "r", str(CHART), "--kube-version", version, values=values)
    assert done.returncode != 0, "helm accepts the values"
    return done.stderr


def problems(documents: list[Document], values: str, version: str = NEWEST) -> list[str]:
    """The findings of all checks of a release."""
    found = [problem for document in documents for problem in schemas.problems(document, version)]
    return found or references.problems(documents, user_keys(yaml.safe_load(values)))


def user_keys(values: Any) -> frozenset[str]:
    """Labels, annotations and variables that the user names in values."""
    if isinstance(values, list):
        return frozenset().union(*map(user_keys, values))
    if not isinstance(values, dict):
        return frozenset()
    keys = {key for name in CHOSEN for key in (values.get(name) or {})}
    keys |= {variable["name"] for variable in values.get("extraEnv") or ()}
    return frozenset(keys).union(*map(user_keys, values.values()))


def only(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The one object of a kind, and of a name."""
    (found,) = (d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"]))
    return found


def server(documents: list[Document]) -> Document:
    """The container of the server."""
    containers = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    (found,) = (container for container in containers if container["name"] == "kanserve")
    return found


def environment(container: Document) -> dict[str, str]:
    """The variables of a container."""
    return {variable["name"]: variable["value"] for variable in container["env"]}


def pairwise(choices: list[list[Document]]) -> list[str]:
    """Values files that have each pair of two choices of different parameters: greedy, in the order of the choices."""
    open_pairs = {
        ((a, i), (b, j))
        for a, b in combinations(range(len(choices)), 2)
        for i in range(len(choices[a]))
        for j in range(len(choices[b]))
    }
    files = []
    while open_pairs:
        chosen: dict[int, int] = dict(min(open_pairs))
        for parameter in range(len(choices)):
            if parameter not in chosen:
                gains = [_gain(open_pairs, chosen, (parameter, i)) for i in range(len(choices[parameter]))]
                chosen[parameter] = gains.index(max(gains))
        open_pairs -= set(combinations(sorted(chosen.items()), 2))
        merged: Document = {}
        for parameter, index in sorted(chosen.items()):
            merge(merged, choices[parameter][index])
        files.append(json.dumps(merged))
    return files


def _gain(open_pairs: set[Any], chosen: dict[int, int], new: tuple[int, int]) -> int:
    return sum(tuple(sorted((pair, new))) in open_pairs for pair in chosen.items())


def merge(target: Document, source: Document) -> None:
    """Add the values of a mapping to another one, as helm does."""
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = json.loads(json.dumps(value))


CHECK = "/grpc.health.v1.Health/Check"


def passes(probe: dict[str, Any], ports: dict[str, int]) -> bool:
    """One run of a probe, on loopback. `ports`: by their names in the container."""
    if "grpc" in probe:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        with grpc.insecure_channel(f"127.0.0.1:{ports['h2c']}") as channel:
            call = channel.unary_unary(CHECK, response_deserializer=health_pb2.HealthCheckResponse.FromString)
            try:
                response = call(request.SerializeToString(), timeout=probe["timeoutSeconds"])
            except grpc.RpcError:
                return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
    get = probe["httpGet"]
    url = f"{get['scheme'].lower()}://127.0.0.1:{ports[get['port']]}{get['path']}"
    unverified = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"], context=unverified) as response:
            return bool(response.status == 200)
    except OSError:
        return False
