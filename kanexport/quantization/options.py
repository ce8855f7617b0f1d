"""Options of quantization: `--quantize`, `--calibration` and `--max-error`."""

from __future__ import annotations

from dataclasses import dataclass

from kanexport.bundle.baseline import Rows
from kanexport.errors import OptionError
from kanexport.shared.sections import FP16_WEIGHTS, INT8

METHODS = (FP16_WEIGHTS, INT8)  # values of --quantize
# The largest error, relative to the largest output, unless the user says otherwise. float16 rounds a weight by up to
# 5e-4 of itself; goldens differ by 9e-5 to 1.3e-3 then, on rows made for them. A byte rounds it by up to 4e-3 of the
# largest of its column; goldens differ by 3e-3 to 2e-2. Beyond these bounds more is lost than these bits usually cost.
MAX_ERROR = {FP16_WEIGHTS: 2e-3, INT8: 5e-2}


@dataclass(frozen=True, slots=True)
class QuantizationOptions:
    """Options of quantization.

    quantize   one of `METHODS`, or empty for an exact export
    rows       of the user's data, on which errors are measured
    max_error  relative; None for the default of the method
    """

    quantize: str = ""
    rows: Rows | None = None
    max_error: float | None = None

    @property
    def bound(self) -> float:
        """The largest accepted error."""
        return MAX_ERROR[self.quantize] if self.max_error is None else self.max_error

    def check(self, dtype: str, *, explain: bool) -> None:
        """Raises OptionError for invalid values, or for options that cannot be combined."""
        if not self.quantize:
            for flag, value, other in (
                ("--calibration", self.rows, "--quantize or --coverage"),
                ("--max-error", self.max_error, "--quantize"),
            ):
                if value is not None:
                    raise OptionError(
                        f"{flag} needs {other}", code="option-needs-other", hint=f"add {other}, or remove {flag}"
                    )
            return
        if self.quantize not in METHODS:
            raise OptionError(
                f"--quantize is {self.quantize[:40]!r}, expected {' or '.join(METHODS)}",
                code="option-value-unknown",
                hint=f"pass --quantize {' or '.join(METHODS)}",
            )
        if dtype != "float32":
            raise OptionError(
                f"--quantize cannot be combined with --dtype {dtype}: a quantized graph computes in float32",
                code="arguments-conflict",
                hint="remove one of the two",
            )
        if explain:
            raise OptionError(
                "--quantize cannot be combined with --explain: the contributions in explain.onnx add up to exact "
                "outputs",
                code="arguments-conflict",
                hint="export the exact model with --explain as another version",
            )
        if not 0 < self.bound < 1:
            raise OptionError(
                f"--max-error is {self.bound}, expected a number between 0 and 1",
                code="option-out-of-range",
                hint="pass a number between 0 and 1, such as --max-error 0.01",
            )


NOTHING = QuantizationOptions()
