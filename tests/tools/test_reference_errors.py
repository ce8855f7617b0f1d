"""Codes and hints of errors: every place that makes an error has a code, and nearly all have a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kanexport.contract.cli import console
from tests.support.tiers import full
from tools.reference import errors

# Packages in which each place that makes an error has a code.
CODED = (
    "kanexport",
    *(f"service/kanserve/{folder}" for folder in ("analysis", "auth", "execution", "grpc_api", "insight", "models")),
    *(f"service/kanserve/{folder}" for folder in ("repository", "rest", "runtime", "sandbox", "scheduling")),
    *(f"service/kanserve/{folder}" for folder in ("server", "services", "system", "transport")),
)
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
HINTED = 0.9  # the smallest share of places with a hint


@pytest.fixture(scope="module")
def sites() -> list[errors.Site]:
    """All places; `errors.sites` takes a second."""
    return errors.sites()


def coded(sites: list[errors.Site], packages: tuple[str, ...] = CODED) -> list[errors.Site]:
    return [site for site in sites if site.path.startswith(tuple(f"{package}/" for package in packages))]


@full("document")
def test_every_error_of_a_user_has_a_code(sites: list[errors.Site]) -> None:
    lacking = [f"{at.path}:{at.line}: {at.kind}" for at in coded(sites) if not at.code and not at.converted]
    assert lacking == [], "pass code="
    assert [site for site in sites if site.code and not CODE.fullmatch(site.code)] == []
    assert console.kebab("LayerSkipped") == "layer-skipped"


@full("document")
def test_nearly_all_errors_have_a_hint_which_is_one_sentence_without_a_full_stop(sites: list[errors.Site]) -> None:
    for packages in (CODED[:1], CODED[1:]):
        with_code = [site for site in coded(sites, packages) if site.code]
        assert sum(bool(site.hints) for site in with_code) / len(with_code) >= HINTED, packages
    hints = [hint for site in coded(sites) for hint in site.hints]
    assert [hint for hint in hints if hint != hint.strip() or re.search(r"[^.]\.$", hint)] == []


@full("document")
def test_the_page_has_each_code_once(sites: list[errors.Site]) -> None:
    page = errors.page()
    codes = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)
    assert sorted(codes) == sorted(errors.by_code(sites))
    for code, meaning in console.MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in page


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package `kanexport`, which `errors` reads."""
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    (tmp_path / "kanexport").mkdir()
    return tmp_path / "kanexport"


def test_messages_are_templates(package: Path) -> None:
    (package / "a.py").write_text(
        'HELP = "remove it"\n'
        "class Failure(Exception): ...\n"
        'class BadName(Failure):\n    code = "name-bad"\n    hint = "choose another name"\n'
        "def check(name, rows):\n"
        '    raise BadName(f"invalid name {name[:80]!r} of {len(rows)} rows")\n'
        '    text = f"{name} is unknown"\n'
        '    raise BadName(text, code="name-unknown", hint=HELP if rows else f"see {name}")\n'
        "    raise BadName(str(name), code=name.code, hint=name.hint)\n"
    )
    found = errors.sites(("kanexport",))
    assert [(site.code, site.message, site.hints, site.converted) for site in found] == [
        ("name-bad", "invalid name <name> of <number> rows", ("choose another name",), False),
        ("name-unknown", "<name> is unknown", ("remove it", "see <name>"), False),
        ("", "", (), True),
    ]


def test_errors_of_a_constructor_and_of_a_function_are_read(package: Path) -> None:
    (package / "a.py").write_text(
        "class Failure(Exception): ...\n"
        "class Full(Failure):\n"
        "    def __init__(self):\n"
        '        super().__init__("the queue is full", code="queue-full", hint="send fewer requests")\n'
        "async def check(name):\n"
        '    text = f"{name} is too large"\n'
        '    raise rejected(name, text, code="name-too-large", hint="choose another name")\n'
        "    raise Full()\n"
    )
    (package / "b.py").write_text("class Full(Exception): ...\n")
    assert [(site.kind, site.code, site.message, site.hints) for site in errors.sites(("kanexport",))] == [
        ("Full", "queue-full", "the queue is full", ("send fewer requests",)),
        ("rejected", "name-too-large", "<name> is too large", ("choose another name",)),
        ("Full", "queue-full", "", ("send fewer requests",)),
    ]
