"""Which tests go first, which skips are failures, and the closing summary that states the largest errors seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# Many tests import onnxruntime themselves, and the processes they start take this over.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch_table  # noqa: E402 - found by the line above

ERRORS: dict[str, tuple[float, str]] = {}

# What a change breaks first: the law, the golden numbers, the proof, one real server.
FIRST = ["test_code_rules", "kanexport/test_golden", "kanexport/test_verify", "kanserve/test_server"]
# Longest first, so that no worker is left with one of them at the end; `make test-fast` leaves them out.
SLOW = [
    *("kanexport/test_hybrid", "end_to_end/test_golden_served", "cli/test_formula", "end_to_end/test_hybrid_served"),
    "end_to_end/test_golden_batches",
    *("kanexport/test_hybrid_graphs", "cli/test_serve", "cli/test_edges", "kanserve/test_drain", "test_docs"),
    *("kanexport/test_hybrid_retry", "kanexport/test_derivatives", "kanexport/test_several", "kanserve/test_several"),
    *("kanexport/test_hybrid_nonfinite", "kanexport/test_hybrid_sampled", "kanexport/test_hybrid_found"),
    *("kanexport/test_hybrid_convolutions", "kanserve/test_attacks", "kanserve/test_doors", "kanserve/test_memory"),
    *("kanserve/test_request_ids", "kanserve/test_own_words", "kanserve/test_traces"),
    *("kanserve/test_logs", "kanserve/test_stream", "kanserve/test_tls", "kanserve/test_web"),
    *(
        "kanserve/test_web_errors",
        "kanserve/test_web_calls",
        "kanserve/test_web_ui",
        "kanserve/test_web_watch",
    ),
    *("ui/test_page", "ui/test_map", "ui/test_large", "ui/test_pictures", "ui/test_views", "cli/test_open"),
    *("kanserve/test_wire", "kanserve/test_connections", "kanserve/test_open_files"),
    *("kanserve/test_watchdog", "kanserve/test_bounded", "reliability/row_21_sigterm"),
    *("reliability/row_24_deadline_drop", "reliability/row_25_cancel_storm", "reliability/row_26_poison"),
    *("kanserve/test_workers", "kanserve/test_reload", "kanserve/test_access", "kanserve/test_renewal"),
    *("kanserve/test_callers", "kanserve/test_control", "kanserve/test_shadow", "kanserve/test_limits"),
    *("kanserve/test_diagnosis", "kanserve/test_live"),
    *("kanserve/test_trial", "kanexport/test_last_step"),
    *(*("kanexport/test_random_modules", "kanexport/test_scale"), "kanexport/test_generated_rivals"),
    "kanexport/test_public_modules",
    *("kernel/test_operator", "kernel/test_beside"),
    *("end_to_end/test_no_telemetry", "kanexport/test_hostile", "kanexport/test_hybrid_command", "cli/test_shapes"),
    *("kanexport/test_folder", "cli/test_infer", "deploy/test_distribution", "cli/test_cli", "kanexport/test_pack"),
    *("cli/test_models", "kanexport/test_cli", "end_to_end/test_perf_analyzer", "kanserve/test_clients"),
    *("kanexport/test_fuzz", "kanexport/test_pickles", "deploy/test_monitoring", "contract/test_pb_fresh"),
    *("cli/test_awaiting", "end_to_end/test_ground_truth"),
    "benchmarks/test_matrix",
    *("test_new_family", "test_contributing", "cli/test_tables", "kanserve/test_guard", "cli/test_completion"),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skip",
        action="append",
        default=[],
        metavar="WORD",
        help="fail if a test is skipped for a reason with WORD",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow files, and orders: the slow, then the first, then the rest as it comes."""
    ranks = {name: rank for rank, name in enumerate([*SLOW, *FIRST])}
    place = {item: item.path.relative_to(HERE).with_suffix("").as_posix() for item in items}
    for item in items:
        if place[item] in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: ranks.get(place[item], len(ranks)))


def pytest_runtest_setup() -> None:
    torch_table.keep()


def forbidden_skips(config: pytest.Config) -> list[str]:
    """Skipped tests that had to run here, as --no-skip says."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    words = config.getoption("--no-skip")
    return [
        f"{report.nodeid}: {report.longrepr[2]}" for report in skipped if any(w in report.longrepr[2] for w in words)
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if forbidden_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def state_error():
    """Call with (what, error, where): the summary prints the largest of each."""

    def state(what: str, error: float, where: str) -> None:
        if error >= ERRORS.get(what, (-1.0, ""))[0]:
            ERRORS[what] = (error, where)

    return state


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if forbidden := forbidden_skips(config):
        terminalreporter.section("skipped, although --no-skip forbids it", red=True)
        for line in forbidden:
            terminalreporter.write_line(line)
    if ERRORS:
        terminalreporter.section("largest errors seen")
        for what, (error, where) in sorted(ERRORS.items()):
            terminalreporter.write_line(f"{what}: {error:.2e} ({where})")
