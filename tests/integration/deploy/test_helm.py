"""The Helm chart: rendered by helm, checked strictly against the schemas of the oldest and the newest Kubernetes."""

import json
import math
import re
import shlex
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from kanserve.client.targets import RESOLVE_SECONDS
from kanserve.config.reference import properties
from kanserve.config.sources import load
from tests.support import helm_chart as helm
from tests.support.command_line import kanserve
from tests.support.tiers import full, spread
from tools.manifests import schemas

GOLDEN = helm.ROOT / "tests" / "golden" / "checkpoints" / "pykan-hello-adapted" / "model"
GUIDE = (helm.ROOT / "docs" / "guides" / "serve" / "kubernetes.md").read_text()
INSECURE = "{insecure: true, models: {pvc: {claimName: models}}}"
SECURE = "{models: {pvc: {claimName: models}}, tls: {secretName: t}, tokens: {secretName: u}}"
CLIENTS = "{models: {pvc: {claimName: m}}, tls: {secretName: t, clientCA: {secretName: c, probeSecretName: p}}}"
CONFIG_MAP = {"name": "hello-1", "model": "hello", "version": 1, "files": ["manifest.json", "model.onnx"]}
# One entry for each parameter of the matrix, with its choices.
CHOICES: list[list[dict[str, Any]]] = [
    [
        {"insecure": True},
        {"tls": {"secretName": "t"}, "tokens": {"secretName": "u"}},
        {"tls": {"secretName": "t", "clientCA": {"secretName": "c", "probeSecretName": "p"}}},
    ],
    [
        {"models": {"source": "pvc", "pvc": {"claimName": "m", "subPath": "models"}}},
        {"models": {"source": "image", "image": {"reference": "registry.example/models:1"}}},
        {"models": {"source": "configMap", "configMaps": [CONFIG_MAP]}},
        {"models": {"source": "sync", "sync": {"remote": ":s3:bucket", "secretName": "s"}}},
    ],
    [
        {},
        {"autoscaling": {"type": "hpa"}},
        {"autoscaling": {"type": "hpa", "hpa": {"cpuPercent": 0, "inflightRequests": 4}}},
        {"autoscaling": {"type": "keda"}},
    ],
    [
        {},
        {"ingress": {"enabled": True, "hosts": ["a.example"], "tlsSecretName": "i"}},
        {"gateway": {"route": "HTTPRoute", "parentRefs": [{"name": "g"}], "hostnames": ["a.example"]}},
        {"gateway": {"route": "GRPCRoute", "parentRefs": [{"name": "g", "sectionName": "grpc"}]}},
    ],
    [{}, {"monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")}}],
    [{}, {"networkPolicy": {"enabled": False}}, {"networkPolicy": {"clients": [], "metrics": []}}],
    [{}, {"podDisruptionBudget": {"enabled": False}}, {"podDisruptionBudget": {"maxUnavailable": "25%"}}],
    [{}, {"topologySpread": {"hosts": "none", "zones": "none"}}, {"topologySpread": {"zones": "DoNotSchedule"}}],
    [{}, {"serviceAccount": {"create": False}}, {"serviceAccount": {"name": "own"}}],
    [{}, {"service": {"type": "LoadBalancer", "port": 443, "annotations": {}}}],
    [{}, {"fullnameOverride": "x" * 60}, {"nameOverride": "kans"}],
    [{}, {"settings": {"transport": "grpcio", "max_inflight_bytes": 2**30, "reflection": True}}],
    [{}, {"strategy": {"maxSurge": "50%"}, "image": {"tag": "7"}, "imagePullSecrets": ["registry"]}],
]
MATRIX = helm.pairwise(CHOICES)


@spread("example", helm.EXAMPLES, 1, ids=lambda path: path.stem)
def test_an_example_passes_lint_and_the_schemas_of_the_oldest_and_newest_kubernetes(example: Path) -> None:
    values = example.read_text()
    done = helm.run("lint", str(helm.CHART), "--strict", "--quiet", values=values)
    assert done.returncode == 0, done.stdout + done.stderr
    for version in (helm.OLDEST, helm.NEWEST):
        assert helm.problems(helm.render(values, version), values, version) == []


@spread("values", MATRIX, 2, ids=map(str, range(len(MATRIX))))
def test_each_pair_of_values_renders_valid_objects(values: str) -> None:
    version = helm.NEWEST if '"image"' in values or "registry.example" in values else helm.OLDEST
    assert helm.problems(helm.render(values, version), values, version) == []


@spread(
    "values, message",
    [
        ("{models: {pvc: {claimName: m}}}", "tls.secretName: not set"),
        ("{models: {pvc: {claimName: m}}, tls: {secretName: t}}", "tokens.secretName: not set"),
        ("{insecure: true}", "models.pvc.claimName: not set"),
        ("{insecure: true, models: {source: image}}", "models.image.reference: not set"),
        ("{insecure: true, models: {source: configMap}}", "models.configMaps: empty"),
        ("{insecure: true, models: {source: sync}}", "models.sync.remote: not set"),
        ("{insecure: true, models: {pvc: {claimName: m}}, ingress: {enabled: true}}", "ingress.hosts: empty"),
        ("{insecure: true, models: {pvc: {claimName: m}}, gateway: {route: HTTPRoute}}", "gateway.parentRefs: empty"),
        ("{insecure: true, models: {pvc: {claimName: m}}, replcas: 3}", "'replcas' not allowed"),
        ("{insecure: true, models: {pvc: {claimName: m}}, settings: {thread: 3}}", "'thread' not allowed"),
        ("{insecure: true, models: {pvc: {claimName: m}}, settings: {repository: x}}", "'repository' not allowed"),
        ("{insecure: true, models: {pvc: {claimName: m}}, settings: {threads: -1}}", "/settings/threads"),
        ("{insecure: true, models: {pvc: {claimName: m}}, tls: {clientCA: {secretName: c}}}", "without tls.secretName"),
        (CLIENTS[:-1] + ", probes: {type: https}}", "probes.type: https"),
        (INSECURE[:-1] + ", autoscaling: {type: keda, maxReplicas: 1}}", "autoscaling.maxReplicas: 1"),
        (INSECURE[:-1] + ", autoscaling: {type: hpa, hpa: {cpuPercent: 0}}}", "autoscaling.hpa: no metric"),
        (INSECURE, "image.repository: not set"),
        (INSECURE[:-1] + ", gateway: {backendTLS: {hostname: h}}}", "gateway.backendTLS: set without tls.secretName"),
        (INSECURE[:-1] + ", tls: {certificate: {issuerRef: {name: ca}}}}", "tls.certificate.issuerRef: set without"),
        (INSECURE[:-1] + ", service: {externalTrafficPolicy: Local}}", "service.externalTrafficPolicy: Local with"),
        (INSECURE[:-1] + ", service: {loadBalancerClass: c}}", "service.loadBalancerSourceRanges: set with"),
    ],
    2,
)
def test_unsafe_or_incomplete_values_are_rejected(values: str, message: str) -> None:
    assert message in helm.failure(values)


@full("package")
@pytest.mark.parametrize(
    ("values", "version", "message"),
    [
        (SECURE[:-1] + ", probes: {type: grpc}}", "1.36", "probes.type: grpc with TLS on Kubernetes v1.36"),
        ("{insecure: true, models: {source: image, image: {reference: r}}}", "1.32", "models.source: image on"),
        (INSECURE[:-1] + ", service: {trafficDistribution: PreferClose}}", "1.30", "expected 1.31 or later"),
        (INSECURE[:-1] + ", service: {trafficDistribution: PreferSameZone}}", "1.33", "expected 1.34 or later"),
    ],
)
def test_a_feature_of_a_later_kubernetes_is_rejected(values: str, version: str, message: str) -> None:
    assert message in helm.failure(values, version)
    first = f"1.{int(version.partition('.')[2]) + 1}"
    assert helm.problems(helm.render(values, first), values, first) == []


@full("package")
@pytest.mark.parametrize("waits", [(5, 0.5, 25), (0, 0, 0), (20, 1.25, 90), (0.1, 0.1, 0.1)])
def test_the_termination_grace_period_covers_the_drain(waits: tuple[float, float, float]) -> None:
    names = ("drain_delay_seconds", "drain_reject_seconds", "drain_grace_seconds")
    settings = json.dumps(dict(zip(names, waits, strict=True)))
    pod = helm.only(helm.render(f"{INSECURE[:-1]}, settings: {settings}}}"), "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == math.ceil(sum(waits)) + 5


EXTRA = """
models: {pvc: {claimName: m}}
tokens: {secretName: t}
tls: {secretName: s, certificate: {issuerRef: {name: ca, kind: ClusterIssuer}, spec: {duration: 720h}}}
gateway: {backendTLS: {caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}
service:
  {type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerClass: c, loadBalancerSourceRanges: [192.0.2.0/24]}
autoscaling: {type: TYPE, behavior: {scaleUp: {policies: [{type: Pods, value: 2, periodSeconds: 60}]}}}
monitoring:
  rules: {enabled: true}
  serviceMonitor:
    {enabled: true, jobLabel: app.kubernetes.io/instance, metricRelabelings: [{regex: le, action: labeldrop}]}
deploymentAnnotations: {example.com/restart: "true"}
envFrom: [{secretRef: {name: proxy}}]
lifecycle: {preStop: {sleep: {seconds: 7}}}
initContainers: [{name: fetch, image: registry.example/fetch}]
extraContainers: [{name: proxy, image: registry.example/proxy}]
extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ .Release.Name }}-own"}}]
"""


@spread("scaler", ["hpa", "keda"], 1)
def test_a_cluster_adds_its_own_containers_objects_and_policies(scaler: str) -> None:
    values = EXTRA.replace("TYPE", scaler)
    documents = helm.render(values)
    assert helm.problems(documents, values) == []
    deployment, spec = helm.only(documents, "Deployment"), helm.only(documents, "Service", "r-kanserve")["spec"]
    pod, container = deployment["spec"]["template"]["spec"], helm.server(documents)
    assert deployment["metadata"]["annotations"] == {"example.com/restart": "true"}
    assert [part["name"] for part in (*pod["initContainers"], *pod["containers"])] == ["fetch", "kanserve", "proxy"]
    assert (container["envFrom"], pod["terminationGracePeriodSeconds"]) == ([{"secretRef": {"name": "proxy"}}], 36 + 7)
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert (spec["externalTrafficPolicy"], spec["loadBalancerClass"]) == ("Local", "c")
    assert spec["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    scaling = helm.only(documents, "HorizontalPodAutoscaler" if scaler == "hpa" else "ScaledObject")["spec"]
    behavior = scaling.get("behavior") or scaling["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"] == {"stabilizationWindowSeconds": 300}
    assert behavior["scaleUp"]["policies"] == [{"type": "Pods", "value": 2, "periodSeconds": 60}]
    certificate, policy = helm.only(documents, "Certificate")["spec"], helm.only(documents, "BackendTLSPolicy")["spec"]
    assert {"r-kanserve.models.svc", "r-kanserve-headless.models.svc"} <= set(certificate["dnsNames"])
    assert (certificate["secretName"], certificate["duration"]) == ("s", "720h")
    assert policy["validation"]["hostname"] == "r-kanserve.models.svc"
    (endpoint,) = helm.only(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["metricRelabelings"] == [{"regex": "le", "action": "labeldrop"}]
    rules = json.dumps(helm.only(documents, "PrometheusRule"))
    assert 'job=\\"kanserve\\"' not in rules, "the job is the name of the release"
    assert helm.only(documents, "ConfigMap", "r-own")


def test_the_network_policy_admits_the_clients_of_a_service_for_outside() -> None:
    for service, expected in (
        ("{type: ClusterIP}", []),
        ("{type: NodePort}", ["0.0.0.0/0", "::/0"]),
        ("{type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]}", ["0.0.0.0/0", "::/0"]),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [192.0.2.0/24]}",
            ["192.0.2.0/24"],
        ),
    ):
        documents = helm.render(f"{INSECURE[:-1]}, service: {service}}}")
        peers = helm.only(documents, "NetworkPolicy")["spec"]["ingress"][0]["from"]
        assert [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer] == expected, service


def test_clients_find_a_new_pod_before_the_rollout_goes_on() -> None:
    """Otherwise a client of the headless Service knows only pods that are terminating: half of the time is for DNS."""
    assert helm.only(helm.render(INSECURE), "Deployment")["spec"]["minReadySeconds"] >= 2 * RESOLVE_SECONDS


def test_the_server_accepts_the_variables_of_the_chart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server reads them as the values state them: large numbers, sizes, switches and fractions."""
    settings = {
        "max_inflight_bytes": 2**30, "max_request_bytes": "8MiB", "batching": False, "access_log": "sampled:100",
        "max_queue_delay_microseconds": 10_000_000, "inline_run_seconds": 0.0004, "load_model": "hello,digits",
        "model_control": "explicit",
    }  # fmt: skip
    container = helm.server(helm.render(f"{INSECURE[:-1]}, settings: {json.dumps(settings)}}}"))
    env = helm.environment(container)
    assert env["KANSERVE_REPOSITORY"] == "/models"
    for name, value in (env | {"KANSERVE_REPOSITORY": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    loaded = load({}).settings
    assert (loaded.host, loaded.grpc_port, loaded.insecure) == ("0.0.0.0", 8001, True)
    assert (loaded.max_inflight_bytes, loaded.max_request_bytes, loaded.batching) == (2**30, 2**23, False)
    assert (loaded.max_queue_delay_microseconds, loaded.inline_run_seconds) == (10_000_000, 0.0004)
    assert (loaded.access_log, loaded.drain_reject_seconds) == ("sampled:100", 0.5)


@full("package")
@pytest.mark.parametrize(
    ("values", "version", "kind", "port"),
    [
        (INSECURE, helm.OLDEST, "grpc", "h2c"),
        (SECURE, helm.OLDEST, "httpGet", "https"),
        (SECURE[:-1] + ", probes: {type: grpc}}", helm.NEWEST, "grpc", "https"),
        (SECURE[:-1] + ", settings: {transport: grpcio}}", helm.OLDEST, "metrics", "https"),
        (CLIENTS, helm.OLDEST, "metrics", "https"),
    ],
)
def test_the_probe_fits_the_transport(values: str, version: str, kind: str, port: str) -> None:
    documents = helm.render(values, version)
    container = helm.server(documents)
    fields = {key for key in container["livenessProbe"] if not key.endswith(("Seconds", "Threshold"))}
    assert fields == {"grpc" if kind == "grpc" else "httpGet"}
    if kind == "grpc":
        assert container["livenessProbe"]["grpc"]["service"] == "liveness"
        assert container["readinessProbe"]["grpc"].get("mode") == ("TLS" if port == "https" else None)
    if kind == "httpGet":
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "https", "scheme": "HTTPS"}
    if kind == "metrics":
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics", "scheme": "HTTP"}
    assert [entry["name"] for entry in container["ports"]] == [port, "metrics"]
    protocols = {p["name"]: p["appProtocol"] for p in helm.only(documents, "Service", "r-kanserve")["spec"]["ports"]}
    assert protocols == {port: "https" if port == "https" else "kubernetes.io/h2c"}


@full("package")
@pytest.mark.parametrize("values", [INSECURE, SECURE, helm.EXAMPLES[0].read_text()], ids=["plain", "tls", "sync"])
def test_the_pod_satisfies_the_restricted_standard(values: str) -> None:
    pod = helm.only(helm.render(values), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert container["resources"]["limits"]["memory"]
    assert all("hostPath" not in volume for volume in pod["volumes"])
    modes = [volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume]
    assert all(mode == 0o440 for mode in modes), "the server rejects a token file that all users can read"


@full("package")
def test_alerts_and_dashboard_are_those_of_the_monitoring_folder() -> None:
    shown = "monitoring: {rules: {enabled: true}, dashboard: {enabled: true}}"
    documents = helm.render(f"{INSECURE[:-1]}, {shown}}}")
    monitoring = helm.ROOT / "service" / "deploy" / "monitoring"
    assert helm.only(documents, "PrometheusRule")["spec"] == yaml.safe_load(
        (monitoring / "prometheus" / "rules.yml").read_text()
    )
    (text,) = helm.only(documents, "ConfigMap")["data"].values()
    assert json.loads(text) == json.loads((monitoring / "grafana" / "kanserve.json").read_text())


@full("package")
def test_keda_reads_the_metric_of_each_pod_and_may_connect() -> None:
    documents = helm.render(f"{SECURE[:-1]}, autoscaling: {{type: keda}}}}")
    trigger = helm.only(documents, "ScaledObject")["spec"]["triggers"][0]
    assert trigger["metricType"] == "Value", "AverageValue divides the mean by the number of pods again"
    assert trigger["metadata"]["url"] == "http://r-kanserve-headless.models.svc:8002/metrics"
    assert helm.only(documents, "Service", "r-kanserve-headless")["spec"]["clusterIP"] == "None"
    peers = helm.only(documents, "NetworkPolicy")["spec"]["ingress"][1]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in peers
    assert "replicas" not in helm.only(documents, "Deployment")["spec"], "a rollout would reset the number of pods"


def test_the_templates_use_each_value_and_no_other() -> None:
    """A misspelled value in a template is empty, without an error."""
    text = "\n".join(path.read_text() for path in (helm.CHART / "templates").rglob("*") if path.is_file())
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    aliases = {"scaling": "autoscaling", "sync": "models.sync"}
    used = set(re.findall(r"\.Values\.([\w.]+)", text)) | set(re.findall(r"\$values\.([\w.]+)", text))
    used |= {
        f"{aliases.get(name, name)}.{rest}"
        for name, rest in re.findall(r"\$(models|tls|scaling|sync|settings)\.([\w.]+)", text)
    }
    values["settings"] |= dict.fromkeys(properties())
    for path in used:
        value: Any = values
        for key in path.split("."):
            assert isinstance(value, dict), path
            assert key in value, f"the templates use {path}, which is not in values.yaml"
            value = value[key]
    unused = [key for key in values if not any(path.split(".")[0] == key for path in used)]
    assert unused == []


def test_the_schema_of_the_values_allows_no_other_key() -> None:
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    parts, free = [((), schema)], list[str]()
    for path, part in parts:
        parts += [((*path, key), value) for key, value in part.get("properties", {}).items()]
        parts += [((*path, "*"), part["items"])] if "items" in part else []
        if "properties" in part and part.get("additionalProperties") is not False:
            free.append(".".join(path))
    assert len(parts) > 100
    assert free == []


def test_the_version_of_the_chart_is_that_of_the_package() -> None:
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    assert set(chart) == {
        *("apiVersion", "name", "description", "type", "version", "appVersion", "kubeVersion"),
        *("home", "sources", "keywords", "annotations"),
    }, "helm ignores a misspelled field"
    (version,) = re.findall(r'^version = "(.+)"$', (helm.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["version"] == chart["appVersion"] == version


def guide_commands(program_name: str) -> list[list[str]]:
    """The commands of a program in the blocks of the guide."""
    lines = (
        line.strip() for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()
    )
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program_name} ")]


@full("package")
def test_the_commands_of_the_guide_create_what_its_values_name(tmp_path: Path) -> None:
    """kubectl and helm run without a cluster: `create` as a dry run, `install` as `template`."""
    for name in ("tls.crt", "tls.key", "ca.crt", "tokens.toml"):
        (tmp_path / name).write_text("x")
    export = ("export", GOLDEN, "--repository", tmp_path / "models", "--name", "hello")
    assert kanserve(*export).returncode == 0
    created = []
    for command in guide_commands("kubectl"):
        if "create" not in command:
            continue
        dry = [str(helm.program("kubectl")), *command, "--dry-run=client", "--output", "json"]
        done = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        created.append(json.loads(done.stdout))
    assert [problem for document in created for problem in schemas.problems(document, helm.NEWEST)] == []
    (install,) = (command for command in guide_commands("helm") if command[0] == "install")
    assert install[1:3] == ["kanserve", helm.CHART.relative_to(helm.ROOT).as_posix()]
    values = textwrap.dedent(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])
    documents = helm.render(values)
    assert helm.problems(documents, values) == []
    named = {v["secret"]["secretName"] for v in volumes(documents) if "secret" in v}
    (source,) = (v["projected"]["sources"] for v in volumes(documents) if "projected" in v)
    named |= {entry["configMap"]["name"] for entry in source}
    assert named <= {document["metadata"]["name"] for document in created}
    keys = {item["key"] for item in source[0]["configMap"]["items"]}
    stored = helm.only(created, "ConfigMap")
    assert keys == {*stored.get("data", {}), *stored["binaryData"]}, "the values name all files of the version"


def volumes(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pod: dict[str, Any] = helm.only(documents, "Deployment")["spec"]["template"]["spec"]
    return list(pod["volumes"])


@full("package")
def test_each_example_of_the_guide_has_valid_values() -> None:
    examples = [textwrap.dedent(text) for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    assert len(examples) >= 5
    for example in examples:
        values = yaml.safe_load(INSECURE)
        helm.merge(values, yaml.safe_load(example))
        text = json.dumps(values)
        assert helm.problems(helm.render(text), text) == []


@full("package")
def test_the_guide_names_the_objects_of_its_release() -> None:
    """The Service of a release `kanserve` has that name, without the chart's name a second time."""
    done = helm.run("template", "kanserve", str(helm.CHART), "--namespace", "models", *helm.IMAGE, values=SECURE)
    services = [d for d in yaml.safe_load_all(done.stdout) if d and d["kind"] == "Service"]
    assert [service["metadata"]["name"] for service in services] == ["kanserve", "kanserve-headless"]
    assert "service/kanserve 8001" in GUIDE
    assert "kanserve.models.svc" in GUIDE


@full("package")
def test_the_packaged_chart_is_complete(tmp_path: Path) -> None:
    """The alerts, the dashboard and the schema are links in the repository, and files in the package."""
    assert helm.run("package", str(helm.CHART), "--destination", str(tmp_path)).returncode == 0
    (package,) = tmp_path.glob("kanserve-*.tgz")
    values = next(path for path in helm.EXAMPLES if path.stem == "secure-values").read_text()
    arguments = ("--namespace", "models", "--kube-version", helm.NEWEST)
    done = helm.run("template", "r", str(package), *arguments, values=values)
    assert [document for document in yaml.safe_load_all(done.stdout) if document] == helm.render(values)
    assert "'replcas' not allowed" in helm.run("template", "r", str(package), values="replcas: 1").stderr
