"""Codes and hints of errors: every place that makes an error has a code, and nearly all have a hint."""

import re

import pytest

from kanexport.shared.cli import console
from kanserve.errors import LoadReason
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
def test_no_message_is_only_a_reason(sites: list[errors.Site]) -> None:
    reasons = {reason.value for reason in LoadReason}
    assert [f"{site.path}:{site.line}" for site in sites if site.message in reasons] == []


@full("document")
def test_the_page_has_each_code_once(sites: list[errors.Site]) -> None:
    page = errors.page()
    codes = re.findall(r"^\| `([a-z0-9-]+)`(?:<br>[A-Z_]+)? \|", page, re.MULTILINE)
    assert sorted(codes) == sorted(errors.by_code(sites))
    for code, meaning in console.MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in page
