"""Tests of `config/settings.py`."""

import re

from kanserve.config import reference, settings
from kanserve.config.settings import Settings


def test_every_setting_has_a_flag() -> None:
    assert {"repository", *settings.flags()} == set(settings.Settings.model_fields)


DESCRIPTIONS = {name: str(schema["description"]) for name, schema in reference.properties().items()}


def test_descriptions_are_complete() -> None:
    """Each stands alone, has its unit, and says what zero and unset mean. None begins with a condition or a pronoun."""
    properties, flags = reference.properties(), settings.flags()
    assert len(set(DESCRIPTIONS.values())) == len(DESCRIPTIONS)
    for name, text in DESCRIPTIONS.items():
        unit = flags[name].metavar if name in flags else ""
        assert properties[name].get("minimum") != 0 or "; 0: " in text, name
        assert Settings.model_fields[name].default is not None or "; unset: " in text, name
        assert unit != "SECONDS" or name.endswith("_seconds") or "in seconds" in text, name
        assert unit != "BYTES" or name.endswith("_bytes"), name
        assert len(text.split()) >= 4, name
        assert not re.match(r"(?i)(0|if|when|that|it|they|of|what|who)\b", text), name
        assert not text.endswith("."), name
