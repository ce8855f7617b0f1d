"""Tests of `quantization/options.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kanexport.errors import OptionError
from kanexport.pipeline import Request, export
from kanexport.quantization.options import QuantizationOptions
from tests.support.golden_cases import cases

DIGITS, WINE = "efficient-kan-digits", "efficient-kan-wine-update-grid"


def case(name: str) -> Any:
    return next(result for result in cases() if result.name == name)


def exported(folder: Path, name: str, **more: Any) -> Any:
    result = case(name)
    return export(
        Request(path=result.path, repository=folder, name=more.pop("called", "m"), options=result.options, **more)
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"quantization": QuantizationOptions("fp16-weights"), "dtype": "float64"}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("fp16-weights"), "explain": True}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("int4")}, "--quantize is 'int4', expected fp16-weights or int8"),
        ({"quantization": QuantizationOptions(max_error=0.1)}, "--max-error needs --quantize"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=float("nan"))}, "--max-error is nan"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=0.0)}, "--max-error is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        exported(tmp_path, WINE, **more)
