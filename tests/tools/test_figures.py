"""tools/figures.py: a figure in prose that the file does not have fails the build."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tools import figures

ROOT = figures.ROOT
README, ALTERNATIVES = "README.md", "docs/explanation/alternatives.md"
CAPACITY, INDEX = "docs/operations/capacity-planning.md", "docs/benchmarks/index.md"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return figures.load(ROOT)


def test_the_pages_have_the_values_of_the_file() -> None:
    assert figures.faults(ROOT) == []


# Contradictions that a reader found on the pages of an earlier commit: page, added line, part of the fault.
CONTRADICTIONS = [
    (README, "* Faster graphs: 4.8 times as fast as `torch.onnx.export`.", "'4.8 times' has no source"),
    (README, "* 6 of 38 reliability tests fail.", "'6 of 38' has no source"),
    (ALTERNATIVES, "| one in flight, relative to Triton | 0.59 | **1** |", "'0.59' has no source"),
    (
        ALTERNATIVES,
        "| | kanserve | Triton 2.51 |\n|---|---|---|\n| TLS | 42,877<!-- production-rate --> | not measured |",
        "Triton is 'not measured', but docs/figures.toml has 28,140",
    ),
    (
        INDEX,
        "Figures of the server are of an AMD EPYC, on 2026-11-26 and 2026-10-01.",
        "2026-10-01 is the date of no figure",
    ),
    ("CHANGELOG.md", "* A row has the same bits in every batch.", "2 of 34 models differ"),
    (CAPACITY, "200 models take 262 MiB.", "'262 MiB' has no source"),
    (CAPACITY, "The start takes 10 s.", "'10 s' has no source"),
    ("docs/reference/glossary.md", "| architecture file | YAML or JSON file |", "it is a TOML file"),
    ("docs/reference/manifest.md", "The directory has no other file.", "ignores other files"),
    ("docs/tutorials/training-to-drift.md", "You need Python 3.11 to 3.13.", "Python 3.11 to 3.14"),
    ("docs/guides/score/tables.md", "pip install 'kanserve[serve,tables]'", "on no index"),
    ("docs/reference/versioning.md", "Pin kanserve>=0.2,<0.3.", "on no index"),
    ("docs/guides/export/out-of-grid.md", "its export refuses such rows", "no such message"),
    (README, "If the error exceeds 1e-5, it writes nothing.", "tolerances differ"),
    ("docs/get-started/quickstart.md", "@@EXPORT@@", "a placeholder is no output"),
]


@pytest.mark.parametrize(("page", "line", "fault"), CONTRADICTIONS, ids=lambda value: value[:30])
def test_a_contradiction_is_a_fault(document: dict[str, Any], page: str, line: str, fault: str) -> None:
    text = (ROOT / page).read_text()
    lines = list(figures.page_faults(page, f"{text}\n{line}\n", document))
    assert any(fault in found for found in lines), lines


def test_a_table_of_runs_that_differs_is_a_fault(document: dict[str, Any]) -> None:
    text = (ROOT / INDEX).read_text().replace("Intel Xeon, 2 cores | 2026-11-29", "AMD EPYC, 2 cores | 2026-11-26")
    assert f"{INDEX}: the table of runs differs from docs/figures.toml" in figures.page_faults(INDEX, text, document)


def test_a_marked_value_that_differs_is_a_fault_and_is_written(document: dict[str, Any], tmp_path: Path) -> None:
    line = "serves 1,234<!-- production-rate --> and 7<!-- no-such -->"
    assert list(figures.page_faults("docs/a.md", line, document)) == [
        "docs/a.md:1: 1,234 is not production-rate, which is 42,877",
        "docs/a.md:1: unknown figure 'no-such'",
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "figures.toml").write_text((ROOT / "docs" / "figures.toml").read_text())
    for name in (README, "CHANGELOG.md"):
        (tmp_path / name).write_text(line)
    figures.write(tmp_path)
    assert (tmp_path / README).read_text() == "serves 42,877<!-- production-rate --> and 7<!-- no-such -->"


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("production-rate", {"quote": "no such line"}, "does not have 'no such line'"),
        ("production-rate", {"value": "42,000"}, "rounds to 42,000"),
        ("export-targets-met", {"value": "15 of 30"}, "has [14, 30]"),
    ],
)
def test_a_figure_without_its_source_is_a_fault(
    document: dict[str, Any], name: str, change: dict[str, str], fault: str
) -> None:
    changed = copy.deepcopy(document)
    changed["figures"][name] |= change
    (line,) = figures.source_faults(ROOT, changed["figures"], changed["runs"])
    assert fault in line


def test_code_generated_parts_and_limits_are_no_prose(document: dict[str, Any]) -> None:
    text = "```text\n9.9 ms\n```\n<!-- a: written by b -->\n9.9 ms\n<!-- end of a -->\n`9.9 ms`, 2.71 and 256 MiB\n"
    assert list(figures.page_faults(CAPACITY, text, document)) == []
