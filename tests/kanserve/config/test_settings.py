"""Tests of `config/settings.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanserve.config import settings
from kanserve.config.settings import Settings
from tests.support import toy_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toy_model.write(root)
    return root


def test_what_others_may_reach(models: Path) -> None:
    pair = {"tls_cert": "a", "tls_key": "a"}
    assert Settings(repository=models, host="0.0.0.0", tokens="t", **pair).exposed == ""
    assert Settings(repository=models, host="0.0.0.0", tls_client_ca="c", **pair).exposed == ""
    assert Settings(repository=models, host="::1", tokens="t").exposed == ""


def test_every_setting_has_a_flag() -> None:
    assert {"repository", *settings.flags()} == set(settings.Settings.model_fields)
