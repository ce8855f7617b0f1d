"""No file, message or error class uses a name that was renamed before the first release."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanserve.pb import kan_pb2
from tests.support.tiers import full

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "arrival_timeout|connection_age|connection_age_grace|connection_idle|drain_delay|drain_grace|"
    "inline_seconds|keep_rows|load_memory|max_calls|max_deadline|max_queries|max_query_evaluations|"
    "max_query_rows|max_streams|max_strings|max_typed_bytes|max_watches|piece_bytes|plain_max_batch|"
    "query_bytes|refuse_seconds|renew_seconds|statistics_rows|stuck_loop_seconds|stuck_run_seconds"
)
FLAGS = "hard-links|graph-screen|keepalive|no-trial|poll|state|max-bytes|max-queue"
METRICS = (
    "certificate_expires_timestamp_seconds|credentials_refused|credentials_renewed_total|drift_ratio|"
    "event_loop_silent_seconds|model_missing|model_refused|outside_baseline_ratio|outside_ratio|"
    "repository_look_seconds|rows_outside_total|settings_refused|settings_waiting|shadow_dropped_total|"
    "shadow_failed_total|shadow_largest_difference|shadow_rows_beyond_total|statistics_rows_total|"
    "worker_ends_total"
)
SERVER = re.compile(
    rf"(?<![A-Za-z0-9_])(?:KANSERVE_)?(?i:{SETTINGS})(?![A-Za-z0-9_])"
    rf"|--(?:{SETTINGS.replace('_', '-')}|{FLAGS})(?![\w-])"
    rf"|kanserve_(?:{METRICS})(?!\w)"
)
FIELDS = re.compile(
    "before|after|outside|outside_before|counts_before|psi_chance|rest|rest_of|over|against|rows_beyond|each_row|"
    "each_sources|each_destinations|of_inputs|spread|ended|fits|answers"
)
UNMISTAKABLE = (
    "outside_before|counts_before|psi_chance|rest_of|each_row|each_sources|each_destinations|of_inputs|"
    "(?<!shadow_)rows_beyond|TooOften|TookTooLong|TooManyCalls|TooManyWatches|TooManyBytes|TooManyUnfinished|NotPossible"
)
WIRE = re.compile(rf"(?<!\w)(?:{UNMISTAKABLE})(?!\w)|kan\.(?:rows_)?outside(?!\w)|kan\.explain\.rest(?!\w)|\?over=")
SUFFIXES = (".py", ".md", ".js", ".html", ".json", ".yml", ".toml", ".sh", ".ipynb", ".proto", "")
RECORDS = (
    "CHANGELOG.md",
    "docs/reference/renamed-names.md",
    "docs/benchmarks/results/performance.jsonl",
    "docs/reliability/reliability.jsonl",
    "tests/test_old_server_names.py",
)


def fields(messages: Any) -> Iterator[str]:
    for message in messages:
        yield from (f"{message.full_name}.{field.name}" for field in message.fields if FIELDS.fullmatch(field.name))
        yield from fields(message.nested_types)


def test_no_field_has_an_old_name() -> None:
    assert list(fields(kan_pb2.DESCRIPTOR.message_types_by_name.values())) == []


def test_the_patterns_find_old_names() -> None:
    for name in ("keep_rows", "KANSERVE_MAX_CALLS", "--stuck-run-seconds", "--poll", "kanserve_drift_ratio"):
        assert SERVER.fullmatch(name), name
    for name in ("sample_rows", "max_connection_age_seconds", "--state-dir", "kanserve_drift_psi_ratio"):
        assert not SERVER.search(name), name
    for name in ("psi_chance", "each_row", "kan.outside", "kan.rows_outside", "kan.explain.rest", "TooOften", "?over="):
        assert WIRE.fullmatch(name), name
    for name in ("scales_each_row", "kan.out_of_range_policy", "kan.explain.residual", "?source=live"):
        assert not WIRE.search(name), name


@full("document")
def test_no_file_has_an_old_name() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = []
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in SUFFIXES and name not in RECORDS and not name.startswith("tests/golden/"):
            text = path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else ""
            result += [f"{name}: {match[0]}" for pattern in (SERVER, WIRE) for match in pattern.finditer(text)]
    assert result == []
