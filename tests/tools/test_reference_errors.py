"""Codes and hints of errors: every place that makes an error has a code, and nearly all have a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kanexport.contract.cli import console
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


def test_every_error_of_a_user_has_a_code() -> None:
    lacking = [
        f"{site.path}:{site.line}: {site.kind}" for site in errors.sites(CODED) if not site.code and not site.converted
    ]
    assert not lacking, "pass code="


def test_codes_are_in_kebab_case() -> None:
    wrong = [site for site in errors.sites() if site.code and not CODE.fullmatch(site.code)]
    assert not wrong
    assert console.kebab("LayerSkipped") == "layer-skipped"


def test_nearly_all_errors_have_a_hint() -> None:
    for packages in (CODED[:1], CODED[1:]):
        coded = [site for site in errors.sites(packages) if site.code]
        share = sum(bool(site.hints) for site in coded) / len(coded)
        print(f"{packages[0]}: {share:.1%} of {len(coded)} places with a code have a hint")
        assert share >= HINTED


def test_a_hint_is_one_sentence_without_a_full_stop() -> None:
    for site in errors.sites(CODED):
        assert all(hint == hint.strip() and not re.search(r"[^.]\.$", hint) for hint in site.hints), site


def test_the_page_has_each_code_once() -> None:
    page = errors.page()
    codes = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)
    assert sorted(codes) == sorted(errors.by_code(errors.sites()))
    for code, meaning in console.MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in page


def test_messages_are_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kanexport"
    package.mkdir()
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
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    found = errors.sites(("kanexport",))
    assert [(site.code, site.message, site.hints, site.converted) for site in found] == [
        ("name-bad", "invalid name <name> of <number> rows", ("choose another name",), False),
        ("name-unknown", "<name> is unknown", ("remove it", "see <name>"), False),
        ("", "", (), True),
    ]


def test_errors_of_a_constructor_and_of_a_function_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kanexport"
    package.mkdir()
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
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    assert [(site.kind, site.code, site.message, site.hints) for site in errors.sites(("kanexport",))] == [
        ("Full", "queue-full", "the queue is full", ("send fewer requests",)),
        ("rejected", "name-too-large", "<name> is too large", ("choose another name",)),
        ("Full", "queue-full", "", ("send fewer requests",)),
    ]
