"""JSON schema and page of the Helm chart's values, from the comments of values.yaml.

The comment above a key is its description. A line `# @schema {...}` has members of its JSON schema; without `type`, the
type is that of the default. A key whose value is a mapping and that has no comment is a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kanserve.config import reference as settings
from tools.reference.tables import table

CHART = Path(__file__).resolve().parents[2] / "service" / "deploy" / "helm" / "kanserve"
MARK = "@schema "
# Settings that the chart sets from other values. A value for them would be set twice.
MANAGED = frozenset(
    {
        *("repository", "host", "grpc_port", "http_port", "metrics_host", "metrics_port", "insecure"),
        *("tls_cert", "tls_key", "tls_client_ca", "tokens"),
    }
)
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
QUANTITY = {"type": ["string", "number"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
HEAD = """# Values of the Helm chart

This page lists every value of the chart `service/deploy/helm/kanserve`, for operators of a cluster.

`make reference` writes this file from `service/deploy/helm/kanserve/values.yaml`. The guide
[Kubernetes](../guides/serve/kubernetes.md) shows how you install the chart. Helm checks your values against
the JSON schema [helm-values.schema.json](helm-values.schema.json) and rejects a name that is not in this table.

The value `settings` has the [settings](settings.md) of the server by name. These settings have other values:
"""


@dataclass(frozen=True, slots=True)
class Value:
    """One documented value. `path`: its keys; `schema`: what its comment adds to its JSON schema."""

    path: tuple[str, ...]
    default: Any
    text: str
    schema: dict[str, Any]


def values(text: str | None = None) -> list[Value]:
    """The values of a file in its order. Default: values.yaml of the chart.

    Raises ValueError if a value has no description.
    """
    text = (CHART / "values.yaml").read_text() if text is None else text
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return list(_values(node, yaml.safe_load(text), text.splitlines(), ()))


def _values(node: Any, defaults: dict[str, Any], lines: list[str], above: tuple[str, ...]) -> Iterator[Value]:
    for key, child in node.value:
        path = (*above, key.value)
        comment = _comment(lines, key.start_mark.line, key.start_mark.column)
        default = defaults[key.value]
        words = " ".join(line for line in comment if not line.startswith(MARK))
        schema = {
            k: v for line in comment if line.startswith(MARK) for k, v in yaml.safe_load(line[len(MARK) :]).items()
        }
        if comment and words:
            yield Value(path, default, words, schema)
        elif isinstance(default, dict) and default and not schema:
            yield from _values(child, default, lines, path)
        else:
            raise ValueError(f"values.yaml: {'.'.join(path)} has no description, expected a comment above it")


def _comment(lines: list[str], key: int, column: int) -> list[str]:
    """The comment directly above a line, with the same indentation, without `# `."""
    start = key
    while start and lines[start - 1].startswith(" " * column + "#"):
        start -= 1
    return [line.strip().removeprefix("#").strip() for line in lines[start:key]]


def schema() -> dict[str, Any]:
    """JSON schema of the values. A name that the chart does not have is an error."""
    root = _object()
    # Helm adds the values of a parent chart.
    root["properties"]["global"] = {"type": "object"}
    for value in values():
        place = root
        for key in value.path[:-1]:
            place = place["properties"].setdefault(key, _object())
        place["properties"][value.path[-1]] = _leaf(value)
    return {"$schema": settings.DRAFT, "title": "Values of the chart kanserve", **root}


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _leaf(value: Value) -> dict[str, Any]:
    added = dict(value.schema)
    if added.pop("settings", False):
        added |= {"additionalProperties": False, "properties": _settings(), "required": sorted(value.default)}
    if added.pop("resources", False):
        names = {"cpu": QUANTITY, "memory": QUANTITY, "ephemeral-storage": QUANTITY}
        part = {"type": "object", "properties": names, "patternProperties": {r"^.+[./].+$": QUANTITY}}
        parts = {name: {**part, "additionalProperties": False} for name in ("requests", "limits")}
        added |= {"additionalProperties": False, "properties": parts}
    return {"description": value.text, "type": TYPES[type(value.default)], **added}


def _settings() -> dict[str, Any]:
    return {name: known for name, known in settings.properties().items() if name not in MANAGED}


def page() -> str:
    """The page."""
    origin = table(
        ("setting", "value of the chart"),
        [
            ("`repository`", "`models.source`"),
            ("`host`, `metrics_host`", "`listenAddress`"),
            ("`grpc_port`, `metrics_port`, `http_port`", "none: 8001 and 8002 in the pod, `service.port` outside"),
            ("`insecure`", "`insecure`"),
            ("`tls_cert`, `tls_key`", "`tls.secretName`"),
            ("`tls_client_ca`", "`tls.clientCA.secretName`"),
            ("`tokens`", "`tokens.secretName`"),
        ],
    )
    rows = [
        (f"`{'.'.join(value.path)}`", f"`{json.dumps(value.default)}`", _allowed(_leaf(value)), value.text)
        for value in values()
    ]
    return HEAD + "\n" + origin + "\n## Values\n\n" + table(("value", "default", "values", "meaning"), rows)


def _allowed(leaf: dict[str, Any]) -> str:
    """The permitted values in words: names, a range, or a type."""
    if "enum" in leaf:
        return ", ".join(f"`{name}`" if name else "empty" for name in leaf["enum"])
    low, high = leaf.get("minimum"), leaf.get("maximum")
    if "exclusiveMinimum" in leaf:
        return f"more than {leaf['exclusiveMinimum']}"
    if low is not None:
        return f"{low} to {high}" if high is not None else f"{low} or more"
    kinds: list[str] = leaf["type"] if isinstance(leaf["type"], list) else [leaf["type"]]
    words = {"array": "list", "object": "mapping", "boolean": "true, false", "string": "text"}
    return " or ".join(words.get(kind, kind) for kind in kinds)


def schema_text() -> str:
    """The text of helm-values.schema.json, to which values.schema.json of the chart is a link."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
