"""The tiers and the order of tests, skips that are failures, and the closing summary with the largest errors seen."""

import functools
import gc
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Examples of a property by tier. A busy machine is no failure. CI repeats its examples, and other runs draw new ones.
EXAMPLES = {"quick": 20, "rest": 500, "all": 500}
for tier, examples in EXAMPLES.items():
    hypothesis.settings.register_profile(tier, deadline=None, max_examples=examples, derandomize="CI" in os.environ)
# Many tests import onnxruntime themselves, and the processes they start take this over.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.support import command_line  # noqa: E402 - found by the line above

ERRORS: dict[str, tuple[float, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=EXAMPLES,
        default="all",
        help="quick: the tests of `make test`; rest: what `make test-full` has beyond them; all: both",
    )
    parser.addoption(
        "--no-skip",
        action="append",
        default=[],
        metavar="WORD",
        help="fail if a test is skipped for a reason with WORD",
    )


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile(config.option.tier)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of files that have no test for `make test`."""
    if config.option.tier != "quick" or collection_path.suffix != ".py":
        return None
    return True if "\npytestmark = full(" in collection_path.read_text() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the tier. Order files with servers first, the largest of them at the front, so that no worker
    is left with a long one at the end."""
    kept = [item for item in items if of_tier(item, config.option.tier)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    sizes = {path: path.stat().st_size for path in {item.path for item in kept}}

    def rank(item: pytest.Item) -> tuple[int, str]:
        return (-sizes[item.path], str(item.path)) if "integration" in item.path.parts else (0, "")

    items[:] = sorted(kept, key=rank)


def of_tier(item: pytest.Item, tier: str) -> bool:
    """Whether a tier has a test. "rest" also has each property, with more examples."""
    marked = item.get_closest_marker("full") is not None
    return {"quick": not marked, "rest": marked or hasattr(item.obj, "hypothesis"), "all": True}[tier]


@pytest.fixture(scope="session", autouse=True)
def _shared_exports(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    base = tmp_path_factory.getbasetemp()
    os.environ[command_line.SHARED] = str((base if worker_id == "master" else base.parent) / "exports")


class _Kept:
    """torch.onnx's table of operators by its arguments. Without it, each export spends half a second on the table.
    An export changes only its own copy."""

    def __init__(self, make: Any) -> None:
        self._make = functools.cache(make)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        table = self._make(*arguments, **named)
        copy = type(table)()
        copy.__dict__.update(table.__dict__, functions={name: [*ways] for name, ways in table.functions.items()})
        return copy


def pytest_runtest_setup() -> None:
    kind = getattr(sys.modules.get("torch.onnx._internal.exporter._registration"), "ONNXRegistry", None)
    make = getattr(kind, "from_torchlib", None)
    if make is not None and not isinstance(make, _Kept):
        kind.from_torchlib = _Kept(make)  # type: ignore[union-attr]  # it has the method
        gc.freeze()  # what torch.onnx has loaded stays; to look through it takes a tenth of an export


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
