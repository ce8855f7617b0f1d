"""The table of log events and the calls that log them agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanserve.observability.log_events import EVENTS, LIBRARY

PACKAGE = Path(__file__).parents[3] / "service" / "kanserve"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
LOGGER = re.compile(r"(\w+\.)*_?(\w+_)?log(ger)?")


def calls() -> Iterator[tuple[str, str, ast.expr]]:
    """Place, level and first argument of each call of a logger."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in LEVELS and LOGGER.fullmatch(ast.unparse(call.func.value)):
                level = "error" if call.func.attr == "exception" else call.func.attr
                yield f"{path.relative_to(PACKAGE)}:{call.lineno}", level, call.args[0]


def ids(argument: ast.expr) -> list[str]:
    """The ids that an argument may be; none for an argument that is not fixed."""
    parts = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
    return [str(part.value) for part in parts if isinstance(part, ast.Constant)]


def test_every_logged_event_is_in_the_table_with_its_levels() -> None:
    used: dict[str, set[str]] = defaultdict(set)
    for place, level, argument in calls():
        names = ids(argument)
        assert names, f"{place}: the event is not a constant"
        for name in names:
            assert name in EVENTS, f"{place}: {name!r} is not in observability/log_events.py"
            used[name].add(level)
    assert len(used) > 40
    table = {name: set(event.levels.split(", ")) for name, event in EVENTS.items() if name != LIBRARY}
    assert dict(used) == table


@pytest.mark.parametrize("name", EVENTS)
def test_ids_are_snake_case_and_messages_are_sentences(name: str) -> None:
    message = EVENTS[name].message
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    assert name == LIBRARY or re.fullmatch(r"[A-Z][^\n]*\.", message)
    assert len(message.split()) <= 25


PROGRAM = """
import logging, sys
from kanserve.observability import logs
logs.configure(sys.argv[1])
logs.get_logger("test").info("model_loaded", model="toy")
logging.getLogger("some.library").warning("the text of a library")
"""


def written(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, timeout=60)
    return done.stderr.splitlines()


def test_json_lines_have_the_id_and_the_message() -> None:
    lines = [json.loads(line) for line in written("json")]
    reported = [(line["event"], line["message"], line["component"]) for line in lines]
    assert reported == [
        ("model_loaded", EVENTS["model_loaded"].message, "test"),
        (LIBRARY, "the text of a library", "some.library"),
    ]


def test_console_lines_show_the_message_first() -> None:
    first, second = written("console")
    assert first.index(EVENTS["model_loaded"].message) < first.index("event=model_loaded")
    assert "the text of a library" in second
