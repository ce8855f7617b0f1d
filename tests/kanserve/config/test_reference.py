"""Settings reference: the page, the editor schema and the server's check agree."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from kanserve.config import reference
from kanserve.config.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", [reference.PAGE, reference.SCHEMA, reference.EVENTS_PAGE])
def test_the_committed_file_is_what_the_settings_say(name: str) -> None:
    assert (ROOT / "docs" / "reference" / name).read_text() == reference.texts()[name], "run `make reference`"


def test_the_page_has_every_setting_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", reference.page(), re.MULTILINE)
    assert sorted(rows) == sorted(Settings.model_fields)


def test_the_pages_own_file_is_right() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", reference.page(), re.DOTALL)
    values = tomllib.loads(text)
    jsonschema.validate(values, reference.schema())
    assert Settings(**{**values, "repository": "."}).max_request_bytes == 8 * 2**20


def accepted(values: dict[str, Any]) -> bool:
    try:
        Settings(**{"repository": ".", **values})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({}, True),
        ({"grpc_port": 0}, True),
        ({"grpc_port": 65536}, False),
        ({"grpc_port": True}, False),
        ({"http_port": 8000}, True),
        ({"http_port": -1}, False),
        ({"gprc_port": 1}, False),
        ({"max_inflight_bytes": "64 mib"}, True),
        ({"max_inflight_bytes": 2**20}, True),
        ({"max_inflight_bytes": "64 megabytes"}, False),
        ({"max_inflight_bytes": 1}, False),
        ({"max_file_bytes": 2**40}, True),
        ({"transport": "grpcio"}, True),
        ({"transport": "http"}, False),
        ({"access_log": "sampled:10"}, True),
        ({"access_log": "small"}, False),
        ({"access_log": "sampled:0"}, False),
        ({"drain_delay_seconds": 0}, True),
        ({"drain_delay_seconds": 601}, False),
        ({"keepalive_seconds": 0}, False),
        ({"reflection": "perhaps"}, False),
        ({"threads": 1.5}, False),
    ],
    ids=str,
)
def test_the_schema_and_the_server_agree(values: dict[str, Any], right: bool) -> None:
    assert jsonschema.Draft7Validator(reference.schema()).is_valid(values) is right
    if values != {"grpc_port": True}:  # where pydantic is kinder than an editor
        assert accepted(values) is right


def test_defaults_are_in_the_schema() -> None:
    defaults = {name: said["default"] for name, said in reference.properties().items() if "default" in said}
    jsonschema.validate(defaults, reference.schema())
    assert accepted(defaults)
    absent = {name for name, field in Settings.model_fields.items() if field.is_required() or field.default is None}
    assert set(Settings.model_fields) - set(defaults) == absent


def test_the_schema_is_printed_where_there_is_no_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--schema"]) == 0
    printed = json.loads(capfd.readouterr().out)
    jsonschema.Draft7Validator.check_schema(printed)
    assert printed == reference.schema()
