"""Tests of `config/settings.py`."""

from __future__ import annotations

import re
from pathlib import Path

from kanserve.config import reference, settings
from kanserve.config.settings import Settings


def test_what_others_may_reach(repository: Path) -> None:
    pair = {"tls_cert": "a", "tls_key": "a"}
    assert Settings(repository=repository, host="0.0.0.0", tokens="t", **pair).exposed == ""
    assert Settings(repository=repository, host="0.0.0.0", tls_client_ca="c", **pair).exposed == ""
    assert Settings(repository=repository, host="::1", tokens="t").exposed == ""


def test_every_setting_has_a_flag() -> None:
    assert {"repository", *settings.flags()} == set(settings.Settings.model_fields)


DESCRIPTIONS = {name: str(field.description) for name, field in Settings.model_fields.items()}


def test_a_description_says_what_zero_and_unset_mean() -> None:
    properties = reference.properties()
    for name, text in DESCRIPTIONS.items():
        if properties[name].get("minimum") == 0:
            assert "; 0: " in text, name
        if Settings.model_fields[name].default is None:
            assert "; unset: " in text, name


def test_a_description_or_a_name_has_the_unit() -> None:
    for name, flag in settings.flags().items():
        if flag.metavar == "SECONDS":
            assert name.endswith("_seconds") or "in seconds" in DESCRIPTIONS[name], name
        if flag.metavar == "BYTES":
            assert name.endswith("_bytes"), name


def test_a_description_is_complete() -> None:
    """Each stands alone: no two are equal, and none begins with a condition, a pronoun or the value 0."""
    assert len(set(DESCRIPTIONS.values())) == len(DESCRIPTIONS)
    for name, text in DESCRIPTIONS.items():
        assert len(text.split()) >= 4, name
        assert not re.match(r"(?i)(0|if|when|that|it|they|of|what|who)\b", text), name
        assert not text.endswith("."), name
