"""KServe's objects: strict JSON schemas from the models of its Python package, and references between the objects.

The sources in the wheel are read and not imported, because the package needs many others.
"""

from __future__ import annotations

import ast
import functools
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from kanserve.config.settings import Settings
from kanserve.observability.metrics import DEFINITIONS
from tools.manifests import download, references

Document = dict[str, Any]
GROUP = "serving.kserve.io"
FOLDER = "kserve/models/"
MODELS = "/mnt/models"  # where KServe mounts a model
CONTAINER = "kserve-container"
ANNOTATIONS = frozenset(
    {
        *(f"prometheus.io/{name}" for name in ("scrape", "port", "path")),
        *(f"prometheus.kserve.io/{name}" for name in ("port", "path")),
        *(f"{GROUP}/{name}" for name in ("deploymentMode", "autoscalerClass")),
    }
)
VARIABLES = frozenset({"STORAGE_URI"})  # which KServe reads
SCHEMES = ("s3", "gs", "https", "pvc", "hf", "oci", "oci+native", "oci+modelcar", "oci+fetch", "git")
NUMBERS = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
# Types of Kubernetes whose names in the package are not those of its core group.
OTHERS = {
    "V1ObjectMeta": f"{META}.ObjectMeta",
    "V1LabelSelector": f"{META}.LabelSelector",
    "ResourceQuantity": "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "V1beta1MetricQuantity": "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "K8sIoApiAppsV1DeploymentStrategy": "io.k8s.api.apps.v1.DeploymentStrategy",
}
METRIC = re.compile(r"\b(?:kanserve|nv)_\w+")


def schema(api: str, kind: str, core: str) -> Document:
    """The schema of one kind. `core`: the file with the definitions of Kubernetes, to which it refers. Raises KeyError
    for an unknown kind, and download.Unavailable."""
    release = api.rpartition("/")[2].capitalize()
    root = f"{release}{kind}"
    if not _has(root):
        raise KeyError(root)
    definitions: dict[str, Document] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in definitions:
            definitions[name] = _model(name, core)
            waiting += re.findall(r"'#/\$defs/(\w+)'", str(definitions[name]))
    required = {"required": ["apiVersion", "kind", "metadata", "spec"]}
    return {"allOf": [{"$ref": f"#/$defs/{root}"}, required], "$defs": definitions}


@functools.cache
def _wheel() -> zipfile.ZipFile:
    return zipfile.ZipFile(download.wheel(download.KSERVE))


@functools.cache
def _members() -> dict[str, str]:
    """File of each model, by the letters of its class."""
    files = [name for name in _wheel().namelist() if name.startswith(FOLDER)]
    return {name.removeprefix(FOLDER).removesuffix(".py").replace("_", ""): name for name in files}


def _has(name: str) -> bool:
    return name.lower() in _members()


def _model(name: str, core: str) -> Document:
    """The schema of one class: its fields under their names in YAML. An unknown field is an error."""
    source = _wheel().read(_members()[name.lower()]).decode()
    tables: dict[str, dict[str, str]] = {}
    defaults: dict[str, object] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict):
            tables[node.targets[0].id] = ast.literal_eval(node.value)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [argument.arg for argument in node.args.args[1:]]
            defaults = dict(zip(names, map(ast.literal_eval, node.args.defaults), strict=True))
    keys = tables["attribute_map"]
    needed = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", source))
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(keys[field] for field in needed if defaults[field] is None),
        "properties": {keys[field]: _type(text, core) for field, text in tables["openapi_types"].items()},
    }


def _type(text: str, core: str) -> Document | bool:
    """The schema of a type. A field whose type is unknown here may not be used."""
    if match := re.fullmatch(r"list\[(.+)\]", text):
        return {"type": "array", "items": _type(match[1], core)}
    if match := re.fullmatch(r"dict\(str, (.+)\)", text):
        return {"type": "object", "additionalProperties": _type(match[1], core)}
    if text in NUMBERS:
        return {"type": NUMBERS[text]}
    if text in OTHERS:
        return {"$ref": f"{core}#/$defs/{OTHERS[text]}"}
    if _has(text):
        return {"$ref": f"#/$defs/{text}"}
    if text.startswith("V1"):
        return {"$ref": f"{core}#/$defs/io.k8s.api.core.v1.{text.removeprefix('V1')}"}
    return False


def problems(documents: list[Document]) -> list[str]:
    """References of the runtime and the services that lead nowhere, and unknown names."""
    runtimes = {d["metadata"]["name"]: d["spec"] for d in documents if d.get("kind") == "ClusterServingRuntime"}
    found = [problem for document in documents for problem in references.problems([document], ANNOTATIONS)]
    for document in documents:
        spec, name = (
            document.get("spec") or {},
            f"{document.get('kind')} {(document.get('metadata') or {}).get('name')}",
        )
        found += [f"{name}: {problem}" for problem in _containers(document)]
        found += [f"{name}: {problem}" for problem in _scraped(spec.get("annotations") or {})]
        canaries = [part.get("predictor") or {} for part in spec.get("canary") or ()]
        for predictor in (spec.get("predictor") or {}, *canaries):
            found += [f"{name}: {problem}" for problem in _predictor(predictor, runtimes)]
        # The published schema of KServe 0.20 requires the name in a canary only. The Python package does not say it.
        named = [(predictor.get("model") or {}).get("name") for predictor in canaries]
        found += [f"{name}: canary model.name {value}, expected {CONTAINER}" for value in named if value != CONTAINER]
    return found


def _containers(document: Document) -> Iterator[str]:
    """Problems of the containers that run the server, as pods into which KServe mounts the model."""
    spec = document.get("spec") or {}
    own = document["metadata"]["name"] if document.get("kind") == "InferenceService" else "{{.Name}}"
    lists = [part["containers"] for part in (spec, spec.get("explainer") or {}) if part.get("containers")]
    for containers in lists:
        for container in containers:
            mounts = [{"name": "model", "mountPath": MODELS}, *(container.get("volumeMounts") or ())]
            pod = {"containers": [{**container, "volumeMounts": mounts}], "volumes": [{"name": "model"}]}
            yield from references.problems([{"kind": "Pod", "spec": pod}], VARIABLES)
            env = {variable.get("name"): variable.get("value") for variable in container.get("env") or ()}
            ports = [(port.get("name"), port.get("containerPort")) for port in container.get("ports") or ()]
            expected: tuple[tuple[str, object, object], ...] = (
                ("name", container.get("name"), CONTAINER),
                ("args", container.get("args"), ["serve"]),
                ("ports", ports, [("h2c", Settings.model_fields["grpc_port"].default)]),
                ("KANSERVE_REPOSITORY", env.get("KANSERVE_REPOSITORY"), MODELS),
                ("KANSERVE_MODEL_NAME", env.get("KANSERVE_MODEL_NAME"), own),
            )
            yield from (f"{what}: {value}, expected {right}" for what, value, right in expected if value != right)
            if document.get("kind") == "InferenceService":
                yield from _storage(str(env.get("STORAGE_URI")))
    if document.get("kind") == "ClusterServingRuntime" and not lists:
        yield "no containers"


def _scraped(annotations: Document) -> Iterator[str]:
    """Annotations that name another port than that of the metrics."""
    port = str(Settings.model_fields["metrics_port"].default)
    for key, value in annotations.items():
        if key.endswith("/port") and value != port:
            yield f"{key}: {value}, expected {port}"


def _predictor(predictor: Document, runtimes: dict[str, Document]) -> Iterator[str]:
    """Problems of a predictor: its runtime, its model, and the metrics of its autoscaler."""
    if not predictor:
        return
    model = predictor.get("model") or {}
    runtime = runtimes.get(str(model.get("runtime")))
    if runtime is None:
        yield f"runtime {model.get('runtime')}: unknown"
        return
    wanted = model.get("modelFormat") or {}
    formats = [(known.get("name"), known.get("version")) for known in runtime.get("supportedModelFormats") or ()]
    if (wanted.get("name"), wanted.get("version")) not in formats:
        yield f"modelFormat {wanted}: not a format of the runtime"
    if model.get("protocolVersion") not in (runtime.get("protocolVersions") or ()):
        yield f"protocolVersion {model.get('protocolVersion')}: not one of the runtime"
    yield from _storage(str(model.get("storageUri")))
    exported = {metric.name for metric in DEFINITIONS}
    for metric in (predictor.get("autoScaling") or {}).get("metrics") or ():
        external = metric.get("external") or {}
        names = METRIC.findall(str((external.get("metric") or {}).get("query")))
        yield from (f"the server exports no metric {name}" for name in names if name not in exported)
        if not names or "value" not in (external.get("target") or {}):
            yield "autoScaling: no metric of the server, or no target value"


def _storage(uri: str) -> Iterator[str]:
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        yield f"storage {uri}: expected one of {', '.join(SCHEMES)}"
