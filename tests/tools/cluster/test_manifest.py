"""The facts of a Deployment, and the place of a pod on this machine."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.cluster import manifest, sandbox
from tools.cluster.manifest import Deployment, ManifestError, Probe
from tools.cluster.sandbox import SERVER, Image, Storage

TEXT = """
kind: Deployment
spec:
  replicas: 3
  minReadySeconds: 10
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}
  template:
    spec:
      terminationGracePeriodSeconds: 36
      containers:
        - name: kanserve
          args: [serve, /models]
          ports: [{name: h2c, containerPort: 8001}, {name: metrics, containerPort: 8002}]
          env: [{name: KANSERVE_HOST, value: 0.0.0.0}, {name: KANSERVE_TOKENS, value: /credentials/tokens.toml}]
          startupProbe: {grpc: {port: 8001}, periodSeconds: 2, failureThreshold: 150}
          readinessProbe: {httpGet: {path: /readyz, port: h2c}, timeoutSeconds: 45}
          livenessProbe: {exec: {command: [/opt/kanserve/bin/kanserve, health]}, initialDelaySeconds: 3}
          lifecycle: {preStop: {sleep: {seconds: 2}}}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: models, mountPath: /models, subPath: production}
            - {name: tokens, mountPath: /credentials}
      volumes:
        - {name: tmp, emptyDir: {}}
        - {name: models, persistentVolumeClaim: {claimName: models}}
        - {name: tokens, secret: {secretName: tokens, defaultMode: 288}}
"""


def document() -> Any:
    return yaml.safe_load(TEXT)


def test_the_facts_of_a_deployment() -> None:
    found = manifest.deployment([document(), {"kind": "Service"}])
    assert (found.replicas, found.surge, found.unavailable, found.min_ready) == (3, "25%", 0, 10)
    pod = found.pod
    assert (pod.args, pod.grace, pod.pre_stop) == (("serve", "/models"), 36, {"sleep": {"seconds": 2}})
    assert pod.startup == Probe("grpc", {"port": 8001}, period=2, failures=150)
    assert pod.readiness == Probe("httpGet", {"path": "/readyz", "port": "h2c"}, timeout=45)
    assert pod.liveness is not None
    assert (pod.liveness.kind, pod.liveness.initial_delay, pod.liveness.period) == ("exec", 3, 10)
    assert pod.port("h2c") == 8001
    with pytest.raises(ManifestError, match="port http: not a port"):
        pod.port("http")


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        (1, 0, 2, (1, 0)),
        ("25%", "25%", 3, (1, 0)),
        ("25%", "25%", 10, (3, 2)),
        (0, 0, 4, (0, 1)),
        ("0%", "10%", 4, (0, 1)),
    ],
)
def test_percentages_round_up_and_down(surge: Any, unavailable: Any, replicas: int, expected: tuple[int, int]) -> None:
    pod = manifest.deployment([document()]).pod
    assert manifest.limits(Deployment(replicas, surge, unavailable, 0, pod), replicas) == expected


def test_what_is_not_implemented_is_an_error() -> None:
    for path, value, message in (
        (("containers", 0, "envFrom"), [], "envFrom is not implemented"),
        (("containers", 0, "livenessProbe"), {"tcpSocket": {"port": 1}}, "expected one of grpc, httpGet, exec"),
        (("containers", 0, "lifecycle"), {"postStart": {}}, "postStart is not implemented"),
        (("containers", 0, "env"), [{"name": "A", "valueFrom": {}}], "valueFrom is not implemented"),
        (("initContainers",), [{}], "several containers"),
        (("volumes", 0), {"name": "tmp", "hostPath": {}}, "expected one of secret"),
    ):
        changed = copy.deepcopy(document())
        place = changed["spec"]["template"]["spec"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ManifestError, match=message):
            manifest.deployment([changed])


def test_paths_and_addresses_become_those_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "models" / "production").mkdir(parents=True)
    storage = Storage({"models": tmp_path / "models"}, {"tokens": {"tokens.toml": b"text"}})
    pod = manifest.deployment([document()]).pod
    made = sandbox.create(pod, Image(), storage, "127.0.1.7", tmp_path / "pod")
    assert made.command() == (*SERVER, "serve", str(tmp_path / "models" / "production"))
    env = made.env()
    assert env["KANSERVE_HOST"] == "127.0.1.7"
    assert env["TMPDIR"] == str(tmp_path / "pod" / "tmp")
    tokens = Path(env["KANSERVE_TOKENS"])
    assert tokens.read_bytes() == b"text"
    assert (tokens.is_symlink(), os.stat(tokens).st_mode & 0o777) == (True, 0o440)
    assert made.here(["/opt/kanserve/bin/kanserve", "health"]) == (*SERVER, "health")
    with pytest.raises(ManifestError, match="secret tokens: not in the cluster, expected one of none"):
        sandbox.create(pod, Image(), Storage({"models": tmp_path / "models"}), "127.0.1.7", tmp_path / "other")
