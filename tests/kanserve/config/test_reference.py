"""Settings reference: the page, the editor schema and the server's check agree."""

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


def test_the_committed_files_are_what_the_settings_say() -> None:
    for name in (reference.PAGE, reference.SCHEMA, reference.EVENTS_PAGE):
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


RIGHT: list[dict[str, Any]] = [
    *({}, {"grpc_port": 0}, {"http_port": 8000}, {"max_inflight_bytes": "64 mib"}, {"max_inflight_bytes": 2**20}),
    *({"max_file_bytes": 2**40}, {"transport": "grpcio"}, {"access_log": "sampled:10"}, {"drain_delay_seconds": 0}),
]
WRONG: list[dict[str, Any]] = [
    *({"grpc_port": 65536}, {"grpc_port": True}, {"http_port": -1}, {"gprc_port": 1}, {"transport": "http"}),
    *({"max_inflight_bytes": "64 megabytes"}, {"max_inflight_bytes": 1}, {"access_log": "small"}),
    *({"access_log": "sampled:0"}, {"drain_delay_seconds": 601}, {"keepalive_seconds": 0}, {"reflection": "perhaps"}),
    {"threads": 1.5},
]


def test_the_schema_and_the_server_agree() -> None:
    schema = jsonschema.Draft7Validator(reference.schema())
    for values in (*RIGHT, *WRONG):
        assert schema.is_valid(values) is (values in RIGHT), values
        if values != {"grpc_port": True}:  # where pydantic is kinder than an editor
            assert accepted(values) is (values in RIGHT), values


def test_the_schema_is_printed_where_there_is_no_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--schema"]) == 0
    printed = json.loads(capfd.readouterr().out)
    jsonschema.Draft7Validator.check_schema(printed)
    assert printed == reference.schema()
