"""Tests of `runtime/base.py`."""

import pytest

from kanserve.errors import ConfigError
from kanserve.runtime import base


def test_an_unknown_backend_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'os'") as caught:
        base.load("os")
    assert (caught.value.code, caught.value.hint) == ("backend-unknown", "set backend to one of ort")
