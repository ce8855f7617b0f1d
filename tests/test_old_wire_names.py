"""No message, file or error class uses a wire name that was renamed before the first release."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanserve.pb import kan_pb2

ROOT = Path(__file__).parents[1]
FIELDS = re.compile(
    "before|after|outside|outside_before|counts_before|psi_chance|rest|rest_of|over|against|rows_beyond|each_row|"
    "each_sources|each_destinations|of_inputs|spread|ended|fits|answers"
)
UNMISTAKABLE = (
    "outside_before|counts_before|psi_chance|rest_of|each_row|each_sources|each_destinations|of_inputs|"
    "(?<!shadow_)rows_beyond|TooOften|TookTooLong|TooManyCalls|TooManyWatches|TooManyBytes|TooManyUnfinished|NotPossible"
)
OLD = re.compile(rf"(?<!\w)(?:{UNMISTAKABLE})(?!\w)|kan\.(?:rows_)?outside(?!\w)|kan\.explain\.rest(?!\w)|\?over=")
SUFFIXES = frozenset((".py", ".md", ".js", ".html", ".json", ".yml", ".toml", ".sh", ".ipynb", ".proto"))
RECORDS = ("CHANGELOG.md", "docs/reference/renamed-names.md", "tests/test_old_wire_names.py")


def fields(messages: Any) -> Iterator[str]:
    for message in messages:
        yield from (f"{message.full_name}.{field.name}" for field in message.fields if FIELDS.fullmatch(field.name))
        yield from fields(message.nested_types)


def test_no_field_has_an_old_name() -> None:
    assert list(fields(kan_pb2.DESCRIPTOR.message_types_by_name.values())) == []


def test_the_pattern_finds_old_names() -> None:
    for name in ("psi_chance", "each_row", "kan.outside", "kan.rows_outside", "kan.explain.rest", "TooOften", "?over="):
        assert OLD.fullmatch(name), name
    for name in ("scales_each_row", "kan.out_of_range_policy", "kan.explain.residual", "?source=live"):
        assert not OLD.search(name), name


def test_no_file_has_an_old_name() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = []
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix not in SUFFIXES or name in RECORDS or name.startswith("tests/golden/") or not path.is_file():
            continue
        result += [f"{name}: {match[0]}" for match in OLD.finditer(path.read_text(errors="replace"))]
    assert result == []
