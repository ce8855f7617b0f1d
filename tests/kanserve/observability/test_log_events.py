"""The table of log events and the calls that log them agree."""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

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


def test_ids_are_snake_case_and_messages_are_sentences() -> None:
    wrong = [
        name
        for name, event in EVENTS.items()
        if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
        or (name != LIBRARY and not re.fullmatch(r"[A-Z][^\n]*\.", event.message))
        or len(event.message.split()) > 25
    ]
    assert not wrong


PROGRAM = """
import logging
from kanserve.observability import logs
for form in ("json", "console"):
    logs.configure(form)
    logs.get_logger("test").info("model_loaded", model="toy")
    logging.getLogger("some.library").warning("the text of a library")
    logs.drain()
"""


def test_lines_have_the_id_and_the_message() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    *lines, first, second = done.stderr.splitlines()
    reported = [(line["event"], line["message"], line["component"]) for line in map(json.loads, lines)]
    message = EVENTS["model_loaded"].message
    assert reported == [("model_loaded", message, "test"), (LIBRARY, "the text of a library", "some.library")]
    assert first.index(message) < first.index("event=model_loaded"), "console lines show the message first"
    assert "the text of a library" in second
