"""Documentation site: its navigation has every page, and the generated pages agree with the code."""

import re
from pathlib import Path

import pytest
import yaml

from tools import llms_txt
from tools.reference import __main__ as reference
from tools.reference import alerts, openapi

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(entries: object) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entries, str):
        return [entries]
    values = entries if isinstance(entries, list) else entries.values() if isinstance(entries, dict) else ()
    return [page for entry in values for page in pages(entry)]


def test_the_navigation_has_every_page_once() -> None:
    named = pages(SETTINGS["nav"])
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_page_begins_with_its_title() -> None:
    without = [str(path) for path in DOCS.rglob("*.md") if not re.match(r"# \S|--8<--", path.read_text())]
    assert without == []


def test_a_page_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "texts", lambda: {"alerts.md": "new", "cli.md": "same"})
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "alerts.md").write_text("old")
    assert reference.main(["--check"]) == 1


def test_the_api_document_resolves() -> None:
    document = openapi.document()
    named = set(re.findall(r'"#/components/schemas/([\w.]+)"', openapi.page()))
    assert named <= set(document["components"]["schemas"])
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert all(operation["summary"].endswith((".", ")")) for operation in operations)
    identifiers = [operation["operationId"] for operation in operations]
    assert len(set(identifiers)) == len(identifiers)


def test_every_alert_has_a_severity_and_texts() -> None:
    known = alerts.alerts(alerts.RULES.read_text())
    assert len(known) == alerts.RULES.read_text().count("- alert: ")
    for alert in known:
        assert alert.severity in ("page", "ticket", "info"), alert.name
        assert alert.summary, alert.name
        assert alert.description, alert.name


def test_the_pages_for_language_models_have_every_page(tmp_path: Path) -> None:
    llms_txt.write(tmp_path)
    short, whole = (tmp_path / "llms.txt").read_text(), (tmp_path / "llms-full.txt").read_text()
    for page in pages(SETTINGS["nav"]):
        assert f"({re.sub(r'(index)?.md$', '', page) or './'})" in short
        assert f"<!-- {page} -->" in whole
    assert "- [Quickstart](get-started/quickstart): On this page, you export" in short
    assert (ROOT / "examples" / "clients" / "go" / "main.go").read_text() in whole
