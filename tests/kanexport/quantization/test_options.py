"""Tests of `quantization/options.py`."""

from pathlib import Path

import pytest

from kanexport.errors import OptionError
from kanexport.quantization.options import QuantizationOptions
from tests.support.golden_cases import exported


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"quantization": QuantizationOptions("fp16-weights"), "dtype": "float64"}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("fp16-weights"), "explain": True}, "cannot be combined with"),
        ({"quantization": QuantizationOptions("int4")}, "--quantize is 'int4', expected fp16-weights or int8"),
        ({"quantization": QuantizationOptions(max_error=0.1)}, "--max-error needs --quantize"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=float("nan"))}, "--max-error is nan"),
        ({"quantization": QuantizationOptions("fp16-weights", max_error=0.0)}, "--max-error is 0"),
    ):
        with pytest.raises(OptionError, match=message):
            exported("efficient-kan-wine-update-grid", tmp_path, **more)
