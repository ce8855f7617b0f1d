"""No file uses a name of the server that was renamed before the first release."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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
OLD = re.compile(
    rf"(?<![A-Za-z0-9_])(?:KANSERVE_)?(?i:{SETTINGS})(?![A-Za-z0-9_])"
    rf"|--(?:{SETTINGS.replace('_', '-')}|{FLAGS})(?![\w-])"
    rf"|kanserve_(?:{METRICS})(?!\w)"
)
RECORDS = (
    "CHANGELOG.md",
    "docs/reference/renamed-names.md",
    "docs/benchmarks/results/performance.jsonl",
    "docs/reliability/reliability.jsonl",
    "tests/test_old_server_names.py",
)


def test_the_pattern_finds_old_names() -> None:
    for name in ("keep_rows", "KANSERVE_MAX_CALLS", "--stuck-run-seconds", "--poll", "kanserve_drift_ratio"):
        assert OLD.fullmatch(name), name
    for name in ("sample_rows", "max_connection_age_seconds", "--state-dir", "kanserve_drift_psi_ratio"):
        assert not OLD.search(name), name


def test_no_old_name_of_the_server_is_left() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = []
    for name in listed.splitlines():
        path = ROOT / name
        if name in RECORDS or name.startswith("tests/golden/") or path.is_symlink() or not path.is_file():
            continue
        if path.suffix not in (".py", ".md", ".js", ".html", ".json", ".yml", ".toml", ".sh", ".ipynb", "", ".proto"):
            continue
        text = path.read_text(errors="replace")
        result += [f"{name}: {match[0]}" for match in OLD.finditer(text)]
    assert result == []
