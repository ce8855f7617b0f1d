"""Generated reference: the pages of settings and of log events, and a JSON schema of the TOML file.

python -m kanserve.config.reference --schema   prints the schema

`python -m tools.reference` writes the files in docs/reference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from kanexport.shared.cli.console import Exit, emit, json_text
from kanserve.config.fields import GIB, KIB, MIB, Group, metavar, shown
from kanserve.config.settings import LIVE, Settings
from kanserve.observability.log_events import EVENTS

PAGE, SCHEMA, EVENTS_PAGE = "settings.md", "kanserve.schema.json", "log-events.md"
DRAFT = "http://json-schema.org/draft-07/schema#"
SIZE = r"^\s*\d+\s*([Kk][Ii][Bb]|[Mm][Ii][Bb]|[Gg][Ii][Bb])\s*$"
MOST = 2**31 - 1  # upper bound of a count, which in practice does not bound it
KEPT = ("description", "default", "type", "enum", "pattern", "minimum", "maximum", "items")
# Names in pydantic of the bounds of a value that a validator of this package converts first.
BOUNDS = {"ge": "minimum", "le": "maximum"}
HEAD = """# Settings

This page lists every setting of `kanserve serve`, for operators of a server.

`make reference` writes this file from `service/kanserve/config/settings.py`. [Configure the
server](../guides/serve/configure.md) shows how you set, check and reload them.

| form of a setting | example |
|---|---|
| flag | `--grpc-port 9001`; a switch is `--reflection` or `--no-reflection` |
| environment variable | `KANSERVE_GRPC_PORT=9001`; a switch is `true` or `false` |
| key of the TOML file that `--config` names | `grpc_port = 9001` |

A flag overrides a variable, a variable overrides the file, and the file overrides the default. A size is a number of
bytes or a text such as "4MiB" (KiB, MiB, GiB). A time is in seconds. A path in the file is relative to the file. A name
that is not a setting is an error in all three forms.

`kanserve serve --show-config` prints each value with its origin. `kanserve serve --check` checks them without serving.
An editor can complete and check a file that names the JSON schema [kanserve.schema.json](kanserve.schema.json).
`python -m kanserve.config.reference --schema` prints this schema.

```toml
#:schema ./kanserve.schema.json
repository = "models"
grpc_port = 9001
max_request_bytes = "8MiB"
access_log = "sampled:100"
```

The last column shows how a change of the file takes effect. On SIGHUP the server reloads the file and applies the
reloadable settings. All others need a restart; the log event `settings_pending_restart` names the changed ones.
"""
EVENTS_HEAD = """# Log events

This page lists every event that the server logs, for operators who search logs or alert on them.

`make reference` writes this file from `service/kanserve/observability/log_events.py`.

The server writes one JSON document or one console line per event. `event` is an id that never changes, so search and
alert on it. `message` explains the event and may change. `level`, `timestamp` and `component` are in every line, and
`request_id` is in every line of a request. [Error events](../operations/runbook-errors.md) of the runbook explains all
events of level error.
"""
SIZES = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
COLUMNS = ("setting", "default", "values", "meaning", "applied by")


def properties() -> dict[str, dict[str, Any]]:
    """The schema of each setting by name, in the order of `Settings`. No null: a TOML file has none."""
    schemas = {}
    for name, schema in Settings.model_json_schema()["properties"].items():
        present = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"][:1]
        flat = {BOUNDS.get(key, key): value for part in (schema, *present) for key, value in part.items()}
        kept = {key: flat[key] for key in KEPT if flat.get(key) is not None}
        kept["description"] = " ".join(kept["description"].split())  # on one line
        if metavar(Settings.model_fields[name]) == "BYTES":
            number = {key: kept.pop(key) for key in ("type", "minimum", "maximum")}
            kept["anyOf"] = [number, {"type": "string", "pattern": SIZE}]
        schemas[name] = kept
    return schemas


def schema() -> dict[str, Any]:
    """JSON schema of the TOML file, for editors."""
    return {
        "$schema": DRAFT,
        "title": "kanserve.toml",
        "description": "Settings of `kanserve serve --config`",
        "type": "object",
        "properties": properties(),
        "additionalProperties": False,
    }


def page() -> str:
    """Every setting, under its heading."""
    known = properties()
    groups: dict[str, list[str]] = {"": [], **{str(group): [] for group in Group}}
    for name, field in Settings.model_fields.items():
        groups[str(shown(field)["group"])].append(name)
    lines = [HEAD]
    for group, names in groups.items():
        if not names:
            continue
        lines += [f"## {group[0].upper()}{group[1:]}\n"] if group else []
        lines += [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
        for name in names:
            field = Settings.model_fields[name]
            unit, schema = metavar(field), known[name]
            default = "-" if field.is_required() else value_text(field.default, unit)
            meaning, applied = schema["description"].replace("|", "\\|"), "SIGHUP" if name in LIVE else "restart"
            lines.append(_row((f"`{name}`", default, _allowed(schema, unit), meaning, applied)))
        lines.append("")
    return "\n".join(lines)


def events_page() -> str:
    """Every log event with its levels and its message."""
    columns = ("event", "level", "message")
    rows = [(f"`{name}`", event.levels, event.message) for name, event in sorted(EVENTS.items())]
    return "\n".join([EVENTS_HEAD, *map(_row, (columns, ("---",) * len(columns), *rows)), ""])


def texts() -> dict[str, str]:
    """The generated files of docs/, by file name."""
    return {PAGE: page(), SCHEMA: json_text(schema(), indent=2) + "\n", EVENTS_PAGE: events_page()}


def _allowed(schema: dict[str, Any], unit: str) -> str:
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "pattern" in schema:
        return "see meaning"
    bounds = schema["anyOf"][0] if "anyOf" in schema else schema
    if bounds.get("maximum") == MOST and unit == "N":
        return f"{bounds['minimum']} or more"
    if "minimum" in bounds:
        return f"{value_text(bounds['minimum'], unit)} to {value_text(bounds['maximum'], unit)}"
    return {"boolean": "true, false", "string": "text"}[schema["type"]] if unit != "FILE" else "a file"


def value_text(value: Any, unit: str) -> str:
    """A value with its unit, as in "2 s" or "4 MiB"; `unit` is the setting's metavar."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if unit == "BYTES":
        size, name = next(((size, name) for size, name in SIZES if value % size == 0), (1, "bytes"))
        return f"{value // size} {name}"
    return f"{value:g} s" if unit == "SECONDS" else str(value)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> int:
    """Print the schema."""
    if argv != ["--schema"]:
        return Exit.WRONG
    emit(texts()[SCHEMA])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
