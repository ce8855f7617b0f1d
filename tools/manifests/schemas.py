"""Strict JSON schemas: of Kubernetes itself, of KServe, and of the custom resources that the chart writes."""

from __future__ import annotations

import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tools.manifests import download, kserve

Document = dict[str, Any]
FOLDER = "kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/"
DEFINITIONS = "_definitions.json"
# Fields that the chart uses, with the versions of the definitions from which they are. An unknown field is an error.
CUSTOM = Path(__file__).parent / "custom_resources.json"


def problems(document: Document, version: str) -> list[str]:
    """Differences of one object from its schema. `version`: Kubernetes version, such as 1.37.

    Raises download.Unavailable if the schemas cannot be had.
    """
    api, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(api, str) or not isinstance(kind, str):
        return [f"apiVersion {api!r}, kind {kind!r}: expected two texts"]
    try:
        validator = _validator(api, kind, version)
    except KeyError:
        return [f"{api} {kind}: not in the schemas of Kubernetes {version} and of the custom resources"]
    return [f"{kind} {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


@functools.cache
def _validator(api: str, kind: str, version: str) -> jsonschema.protocols.Validator:
    """The validator of one kind. Raises KeyError if there is none."""
    custom = json.loads(CUSTOM.read_text())
    if schema := custom["kinds"].get(f"{api} {kind}"):
        return jsonschema.Draft202012Validator({**schema, "$defs": custom["$defs"]})
    if api.startswith(f"{kserve.GROUP}/"):
        return jsonschema.Draft202012Validator(kserve.schema(api, kind, DEFINITIONS), registry=_registry(version))
    group, _, release = api.rpartition("/")
    prefix = group.split(".")[0]
    name = "-".join(part for part in (kind.lower(), prefix, release) if part)
    schema = _core(f"{FOLDER.format(version=version)}{name}.json")
    return jsonschema.Draft202012Validator(schema, registry=_registry(version))


@functools.cache
def _wheel() -> zipfile.ZipFile:
    return zipfile.ZipFile(download.schemas())


def _core(member: str) -> Any:
    return json.loads(_wheel().read(member))


@functools.cache
def _registry(version: str) -> Registry[Any]:
    shared = Resource.from_contents(_core(FOLDER.format(version=version) + DEFINITIONS))
    return Registry().with_resources([(DEFINITIONS, shared), (shared.id() or DEFINITIONS, shared)])
