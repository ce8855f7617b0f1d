"""References between the objects of a release, and names that no schema knows: labels, ports, volumes, variables.

A schema accepts every key of a map, such as a label. A misspelled one is an object that selects nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from kanserve.config.reference import properties
from kanserve.observability.metrics import DEFINITIONS

Document = dict[str, Any]
LABELS = frozenset(
    {
        *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "role", "version", "part-of")),
        *("app.kubernetes.io/managed-by", "helm.sh/chart", "grafana_dashboard", "kubernetes.io/metadata.name"),
    }
)
ANNOTATIONS = frozenset(
    {
        *("kubectl.kubernetes.io/default-container", "checksum/sync"),
        *("helm.sh/hook", "helm.sh/hook-delete-policy"),
    }
)
RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
CLIENT = ("URL", "CA", "CERT", "KEY", "SERVER_NAME", "TOKEN", "TOKEN_FILE")
SYNC = ("SYNC_REMOTE", "SYNC_FOLDER", "SYNC_SECONDS", "SYNC_REMOVE_ALL", "RCLONE_CONFIG", "RCLONE_CACHE_DIR", "TMPDIR")
EXTENDED = re.compile(r"^[a-z0-9.-]+\.[a-z]+/[A-Za-z0-9._-]+$")


def problems(documents: list[Document], user_keys: frozenset[str] = frozenset()) -> list[str]:
    """References that lead nowhere, and unknown names. `user_keys`: labels, annotations and variables of the user."""
    found = [*_maps(documents, user_keys), *_selectors(documents), *_targets(documents), *_config_maps(documents)]
    for document in documents:
        if pod := pod_of(document):
            found += [f"{document['kind']} {problem}" for problem in _pod(pod, user_keys)]
    names = [(document.get("kind"), _get(document, "metadata", "name")) for document in documents]
    return found + [f"{kind} {name}: twice" for kind, name in set(names) if names.count((kind, name)) > 1]


def pod_of(document: Document) -> Document:
    """The pod of a Deployment or a Pod: its metadata and spec. Empty for another kind."""
    if document.get("kind") == "Pod":
        return document
    pod = _get(document, "spec", "template")
    return pod if isinstance(pod, dict) else {}


def _get(value: Any, *path: str | int) -> Any:
    """The value at a path, or None."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each mapping of a document, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, child in value.items():
            yield from _walk(child, (*path, str(key)))
    elif isinstance(value, list):
        for child in value:
            yield from _walk(child, path)


def _maps(documents: list[Document], user_keys: frozenset[str]) -> Iterator[str]:
    """Unknown keys of the mappings that a schema does not check."""
    known: dict[str, frozenset[str]] = {
        "nodeSelector": frozenset(),
        "labels": LABELS,
        "matchLabels": LABELS,
        "selector": LABELS,
        "annotations": ANNOTATIONS,
    }
    for document in documents:
        for path, mapping in _walk(document):
            place = path[-1] if path else ""
            if place in known and not _own_schema(document, path):
                yield from (
                    f"{document.get('kind')} {'.'.join(path)}: unknown key {key}"
                    for key in mapping
                    if key not in known[place] | user_keys
                )
            if place in {"requests", "limits"}:
                yield from (
                    f"{'.'.join(path)}: unknown resource {key}"
                    for key in mapping
                    if key not in RESOURCES and not EXTENDED.match(key)
                )


def _own_schema(document: Document, path: tuple[str, ...]) -> bool:
    """Whether a schema lists the keys: those of alerts, and of a selector that is not a map."""
    if document.get("kind") == "PrometheusRule":
        return path[0] == "spec"
    return path[-1] == "selector" and document.get("kind") != "Service"


def _selectors(documents: list[Document]) -> Iterator[str]:
    """Selectors that select no object of the release."""
    pods = [_get(pod_of(document), "metadata", "labels") or {} for document in documents if pod_of(document)]
    services = [_get(d, "metadata", "labels") or {} for d in documents if d.get("kind") == "Service"]
    for document in documents:
        spec, kind = document.get("spec"), document.get("kind")
        wanted = {
            "Service": (_get(spec, "selector"), pods),
            "NetworkPolicy": (_get(spec, "podSelector", "matchLabels"), pods),
            "ServiceMonitor": (_get(spec, "selector", "matchLabels"), services),
        }.get(str(kind), (_get(spec, "selector", "matchLabels"), pods))
        if kind in {"Service", "NetworkPolicy", "ServiceMonitor", "Deployment", "PodDisruptionBudget"}:
            labels, objects = wanted
            if not labels or not any(labels.items() <= candidate.items() for candidate in objects):
                yield f"{kind}: the selector {labels} selects nothing"
    for document in documents:
        for constraint in _get(pod_of(document), "spec", "topologySpreadConstraints") or ():
            labels = _get(constraint, "labelSelector", "matchLabels")
            if not labels or not any(labels.items() <= candidate.items() for candidate in pods):
                yield f"topologySpreadConstraints: the selector {labels} selects nothing"


def _targets(documents: list[Document]) -> Iterator[str]:
    """Names of objects, ports and metrics that do not exist."""
    names = {(d.get("kind"), _get(d, "metadata", "name")): d for d in documents}
    ports = {str(p.get("name")): p for d in documents for p in _container_ports(d)}
    for document in documents:
        spec, kind = document.get("spec"), document.get("kind")
        if kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            if ("Deployment", _get(spec, "scaleTargetRef", "name")) not in names:
                yield f"{kind}: scaleTargetRef names no Deployment of the release"
            yield from _metrics(kind, spec)
        if kind == "Service":
            for port in _get(spec, "ports") or ():
                if port.get("targetPort") not in ports:
                    yield f"Service: targetPort {port.get('targetPort')} is not a port of a container"
        if kind == "NetworkPolicy":
            for rule in _get(spec, "ingress") or ():
                yield from (
                    f"NetworkPolicy: no port {p.get('port')}" for p in rule["ports"] if p.get("port") not in ports
                )
        for path, mapping in _walk(document):
            if path and path[-1] in {"backendRefs", "service"} and kind in {"HTTPRoute", "GRPCRoute", "Ingress"}:
                service = names.get(("Service", mapping.get("name")))
                if not any(port in _service_ports(service) for port in _backend_ports(mapping)):
                    yield f"{kind}: {mapping} is not a port of a Service of the release"
        if kind == "ServiceMonitor" and not _label_of_service(documents, str(_get(spec, "jobLabel"))):
            yield "ServiceMonitor: jobLabel is not a label of the Service"


def _container_ports(document: Document) -> list[Document]:
    containers = _get(pod_of(document), "spec", "containers") or []
    return [port for container in containers for port in container.get("ports") or ()]


def _service_ports(service: Document | None) -> set[str | int]:
    ports = _get(service, "spec", "ports") or ()
    return {port[key] for port in ports for key in ("name", "port") if key in port}


def _backend_ports(backend: Document) -> list[str | int]:
    port = backend.get("port")
    return list(port.values()) if isinstance(port, dict) else [port] if port else []


def _label_of_service(documents: list[Document], label: str) -> bool:
    return any(label in (_get(d, "metadata", "labels") or {}) for d in documents if d.get("kind") == "Service")


def _metrics(kind: str, spec: Any) -> Iterator[str]:
    """Metrics of an autoscaler that the server does not export."""
    exported = {metric.name for metric in DEFINITIONS if not metric.labels}
    named = [_get(metric, "pods", "metric", "name") for metric in _get(spec, "metrics") or ()]
    named += [_get(trigger, "metadata", "valueLocation") for trigger in _get(spec, "triggers") or ()]
    yield from (f"{kind}: the server exports no metric {name}" for name in named if name and name not in exported)


@functools.cache
def _variables() -> frozenset[str]:
    """Variables of the server, of its client commands and of the synchronization."""
    names = {f"KANSERVE_{name.upper()}" for name in properties()} | {f"KANSERVE_{name}" for name in CLIENT}
    return frozenset({*names, *SYNC})


def _pod(pod: Document, user_keys: frozenset[str]) -> Iterator[str]:
    """Problems of one pod: volumes, variables, probes, grace period."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    mounted = {mount.get("name") for container in containers for mount in container.get("volumeMounts") or ()}
    yield from (f"volume {name}: mounted, and not defined" for name in sorted(map(str, mounted - volumes)))
    yield from (f"volume {name}: defined, and not mounted" for name in sorted(map(str, volumes - mounted)))
    known = _variables() | user_keys
    for container in containers:
        name, env = container.get("name"), container.get("env") or ()
        for variable in env:
            if variable.get("name") not in known:
                yield f"container {name}: unknown variable {variable.get('name')}"
        yield from _files(container, env)
    servers = [container for container in containers if container.get("args") == ["serve"]]
    if servers:
        yield from _server(servers[0], spec)


def _config_maps(documents: list[Document]) -> Iterator[str]:
    """Keys of a ConfigMap that have not the name under which a container or Grafana reads them."""
    commands = [
        part.rpartition("/")[2]
        for document in documents
        for key in ("initContainers", "containers")
        for container in _get(pod_of(document), "spec", key) or ()
        for part in container.get("command") or ()
    ]
    for document in documents:
        if document.get("kind") == "ConfigMap":
            for key, text in (document.get("data") or {}).items():
                if key not in commands and f'"uid": "{key.removesuffix(".json")}"' not in text:
                    yield f"ConfigMap: nothing reads {key}"


def _files(container: Document, env: Any) -> Iterator[str]:
    """Paths of variables and commands that are in no mount."""
    mounts = [str(mount.get("mountPath")) for mount in container.get("volumeMounts") or ()]
    paths = [str(variable.get("value")) for variable in env if str(variable.get("value")).startswith("/")]
    paths += [part for part in container.get("command") or () if part.startswith("/scripts")]
    for path in paths:
        if not any(f"{path}/".startswith(f"{mount}/") or mount.startswith(f"{path}/") for mount in mounts):
            yield f"container {container.get('name')}: {path} is in no volume"


def _server(container: Document, spec: Document) -> Iterator[str]:
    """Problems of the server: probes, ports, and the time that it has to stop."""
    ports = {key for port in container.get("ports") or () for key in (port.get("name"), port.get("containerPort"))}
    env = {variable.get("name"): variable.get("value") for variable in container.get("env") or ()}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(name) or {}
        kinds = [kind for kind in ("grpc", "httpGet", "exec") if kind in probe]
        if len(kinds) != 1:
            yield f"{name}: {kinds or 'no kind'}, expected one of grpc, httpGet, exec"
        elif kinds != ["exec"] and _get(probe, kinds[0], "port") not in ports:
            yield f"{name}: port {_get(probe, kinds[0], 'port')} is not a port of the container"
    waits = [float(env.get(f"KANSERVE_DRAIN_{name}_SECONDS") or 0) for name in ("DELAY", "REJECT", "GRACE")]
    grace = spec.get("terminationGracePeriodSeconds") or 30
    if grace < sum(waits) + 5:
        yield f"terminationGracePeriodSeconds: {grace}, expected at least {sum(waits) + 5}"
