"""Facts of a rendered Deployment that a kubelet and a Deployment controller read.

A field that this package does not honor and that changes the behavior of a pod is an error, not a silent difference.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.manifests import download

ROOT = Path(__file__).parents[2]
CHART = ROOT / "service" / "deploy" / "helm" / "kanserve"
Document = dict[str, Any]
# Fields of a container that a process on this machine can have, or that do not change its behavior here.
CONTAINER = {"name", "image", "imagePullPolicy", "command", "args", "ports", "env", "resources", "securityContext"}
CONTAINER |= {"startupProbe", "readinessProbe", "livenessProbe", "volumeMounts", "lifecycle"}
KINDS = ("grpc", "httpGet", "exec")
VOLUMES = ("secret", "configMap", "projected", "emptyDir", "persistentVolumeClaim")


class ManifestError(ValueError):
    """A manifest that this package cannot run as a cluster would."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with the defaults of Kubernetes, in seconds. `kind`: grpc, httpGet or exec; `action`: its fields."""

    kind: str
    action: Document
    period: float = 10.0
    timeout: float = 1.0
    initial_delay: float = 0.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume at a path of the container. `volume`: the document of the volume; `sub_path`: a folder in it, or ""."""

    path: str
    volume: Document
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """The one container of a pod, its volumes and its end.

    command   replaces the entry point of the image, if it is not empty
    grace     seconds from the deletion to SIGKILL
    pre_stop  document of the hook, or None
    """

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    ports: Mapping[str, int]
    grace: float
    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None
    pre_stop: Document | None = None

    def port(self, name: int | str) -> int:
        """The number of a port. Raises ManifestError for an unknown name."""
        if isinstance(name, int):
            return name
        if name not in self.ports:
            raise ManifestError(f"port {name}: not a port of the container, expected one of {', '.join(self.ports)}")
        return self.ports[name]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Fields that the Deployment controller reads. `surge` and `unavailable`: numbers or percentages of pods."""

    replicas: int
    surge: int | str
    unavailable: int | str
    min_ready: float
    pod: PodSpec


def render(values: Mapping[str, Any], release: str = "r", version: str = "1.37") -> list[Document]:
    """The objects that `helm template` writes for these values. Raises download.Unavailable or ManifestError."""
    command = [str(download.program("helm")), "template", release, str(CHART), "--namespace", "models"]
    command += ["--kube-version", version, "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ManifestError(f"helm template failed: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def deployment(documents: Sequence[Document]) -> Deployment:
    """The one Deployment of a release. Raises ManifestError."""
    found = [document for document in documents if document["kind"] == "Deployment"]
    if len(found) != 1:
        raise ManifestError(f"{len(found)} Deployments, expected one")
    spec = found[0]["spec"]
    rolling = spec.get("strategy", {}).get("rollingUpdate", {})
    if spec.get("strategy", {}).get("type", "RollingUpdate") != "RollingUpdate":
        raise ManifestError("strategy.type: not RollingUpdate, which is the only one that is implemented")
    return Deployment(
        replicas=spec.get("replicas", 1),
        surge=rolling.get("maxSurge", "25%"),
        unavailable=rolling.get("maxUnavailable", "25%"),
        min_ready=spec.get("minReadySeconds", 0),
        pod=pod_spec(spec["template"]["spec"]),
    )


def pod_spec(spec: Document) -> PodSpec:
    """The pod of a template. Raises ManifestError for more than one container and for unknown fields."""
    containers = spec["containers"]
    if len(containers) != 1 or spec.get("initContainers"):
        raise ManifestError("the pod has several containers, expected one (models.source other than sync)")
    (container,) = containers
    if unknown := sorted(container.keys() - CONTAINER):
        raise ManifestError(f"container: {', '.join(unknown)} is not implemented")
    lifecycle = container.get("lifecycle") or {}
    if unknown := sorted(lifecycle.keys() - {"preStop"}):
        raise ManifestError(f"lifecycle: {', '.join(unknown)} is not implemented")
    volumes = {volume["name"]: _volume(volume) for volume in spec.get("volumes") or ()}
    return PodSpec(
        command=tuple(container.get("command") or ()),
        args=tuple(container.get("args") or ()),
        env=tuple(_variable(variable) for variable in container.get("env") or ()),
        mounts=tuple(
            Mount(mount["mountPath"], volumes[mount["name"]], mount.get("subPath", ""))
            for mount in container.get("volumeMounts") or ()
        ),
        ports={port.get("name", str(port["containerPort"])): port["containerPort"] for port in container["ports"]},
        grace=spec.get("terminationGracePeriodSeconds", 30),
        startup=probe(container.get("startupProbe")),
        readiness=probe(container.get("readinessProbe")),
        liveness=probe(container.get("livenessProbe")),
        pre_stop=lifecycle.get("preStop"),
    )


def _volume(volume: Document) -> Document:
    kinds = [kind for kind in VOLUMES if kind in volume]
    if len(kinds) != 1:
        raise ManifestError(f"volume {volume['name']}: {sorted(volume)}, expected one of {', '.join(VOLUMES)}")
    return volume


def _variable(variable: Document) -> tuple[str, str]:
    if "value" not in variable:
        raise ManifestError(f"variable {variable['name']}: valueFrom is not implemented, expected a value")
    return variable["name"], variable["value"]


def probe(document: Document | None) -> Probe | None:
    """The probe of a container, or None. Raises ManifestError for a kind that is not implemented."""
    if document is None:
        return None
    kinds = [kind for kind in KINDS if kind in document]
    if len(kinds) != 1:
        raise ManifestError(f"probe with {sorted(document)}, expected one of {', '.join(KINDS)}")
    (kind,) = kinds
    return Probe(
        kind=kind,
        action=document[kind],
        period=document.get("periodSeconds", 10),
        timeout=document.get("timeoutSeconds", 1),
        initial_delay=document.get("initialDelaySeconds", 0),
        failures=document.get("failureThreshold", 3),
        successes=document.get("successThreshold", 1),
    )


def limits(spec: Deployment, replicas: int) -> tuple[int, int]:
    """Additional and missing pods that a rollout permits: percentages round up and down, and both are not 0."""
    surge, missing = _share(spec.surge, replicas, math.ceil), _share(spec.unavailable, replicas, math.floor)
    return surge, max(missing, 1) if surge == 0 else missing


def _share(value: int | str, replicas: int, rounded: Any) -> int:
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        raise ManifestError(f"{value}: expected a number of pods or a percentage")
    return int(rounded(int(value[:-1]) * replicas / 100))
