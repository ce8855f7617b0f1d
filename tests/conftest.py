"""The order of tests, skips that are failures, and the closing summary that states the largest errors seen."""

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
sys.path.insert(0, str(HERE.parent))

from tests.support import onnx_registry_cache  # noqa: E402 - found by the line above

ERRORS: dict[str, tuple[float, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skip",
        action="append",
        default=[],
        metavar="WORD",
        help="fail if a test is skipped for a reason with WORD",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of slow files for `make test-fast`: importing all files takes about 33% of its time."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if "pytestmark = pytest.mark.slow" in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the slow files first, the largest of them at the front, so that no worker is left with a long one at the
    end. A slow file has `pytestmark = pytest.mark.slow`, and `make test-fast` leaves it out."""
    sizes = {path: path.stat().st_size for path in {item.path for item in items}}

    def rank(item: pytest.Item) -> tuple[int, str]:
        return (-sizes[item.path], str(item.path)) if item.get_closest_marker("slow") else (0, "")

    items.sort(key=rank)


def pytest_runtest_setup() -> None:
    onnx_registry_cache.keep()


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
