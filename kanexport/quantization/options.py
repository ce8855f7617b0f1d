"""What of lower precision was asked for: `--weights half`, `--precision int8` and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass

from kanexport.bundle.baseline import Rows
from kanexport.contract.sections import HALVES, SUMS
from kanexport.errors import OptionError

WEIGHTS = {"half": HALVES}  # what --weights knows
PRECISIONS = {"int8": SUMS}  # what --precision knows
# The largest error, relative to the largest answer, unless the user says otherwise. float16 rounds a weight by up to
# 5e-4 of itself; goldens differ by 9e-5 to 1.3e-3 then, on rows made for them. A byte rounds it by up to 4e-3 of the
# largest of its column; goldens differ by 3e-3 to 2e-2. Beyond these bounds more is lost than these bits usually cost.
MAX_ERROR = {HALVES: 2e-3, SUMS: 5e-2}


@dataclass(frozen=True, slots=True)
class QuantizationOptions:
    """`weights` and `precision`: as the command has them, or empty. `rows`: of the user's data, on which errors are
    measured. `max_error`: None for the usual one."""

    weights: str = ""
    precision: str = ""
    rows: Rows | None = None
    max_error: float | None = None

    @property
    def form(self) -> str:
        """HALVES, SUMS, or empty."""
        return WEIGHTS.get(self.weights, "") or PRECISIONS.get(self.precision, "")

    @property
    def bound(self) -> float:
        """The largest error that is accepted."""
        return MAX_ERROR[self.form] if self.max_error is None else self.max_error

    def check(self, dtype: str, *, explain: bool) -> None:
        """Raises OptionError for what makes no sense, alone or together."""
        for flag, given, known in (
            ("--weights", self.weights, WEIGHTS),
            ("--precision", self.precision, PRECISIONS),
        ):
            if given and given not in known:
                raise OptionError(f"{flag} is {given[:40]!r}, expected {', '.join(known)}")
        if not self.form:
            self._unused()
            return
        if self.weights and self.precision:
            raise OptionError(
                "--weights half and --precision int8 exclude each other: int8 says of every branch how it is stored"
            )
        if dtype != "float32":
            raise OptionError(f"fewer bits and --dtype {dtype} exclude each other: the rest is computed in float32")
        if explain:
            raise OptionError(
                "fewer bits and --explain exclude each other: what explain.onnx tells adds up to exact answers",
                hint="export the exact model with --explain as another version beside it",
            )
        if not 0 < self.bound < 1:
            raise OptionError(f"--max-error is {self.bound}, expected a number between 0 and 1")

    def _unused(self) -> None:
        for flag, given in (("--calibration", self.rows), ("--max-error", self.max_error)):
            if given is not None:
                raise OptionError(f"{flag} is for --precision int8 and --weights half")


NOTHING = QuantizationOptions()
