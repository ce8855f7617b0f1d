"""Exceptions of an export.

    ExportError                  exit 2: the input or the command is wrong
    ├── CheckpointError          a file that cannot be read as a checkpoint
    │   ├── DamagedCheckpoint    a file that is damaged or cut off
    │   └── UnsafeCheckpoint     a pickle that names something other than tensors
    ├── FamilyError              the tensors do not identify the library, or the order of its layers
    ├── OptionError              a fact is missing, unknown or malformed
    │   ├── OpenQuestion         the file leaves the fact open, and no value is more likely than another
    │   └── MissingFunctions     symbolic edges without known functions
    ├── InvalidKan               weights, knots or shapes that do not describe a KAN
    │   ├── LayerSkipped         a submodule that is not replaced by a KAN layer
    │   ├── ModuleRefused        a PyTorch module that cannot be run, traced or served row by row
    │   └── UnknownFunction      a function name that is not in the table
    ├── RepositoryError          the model repository cannot accept the result
    ├── LimitExceeded            the export needed more time or memory than its limit
    ├── Crashed                  internal error of the exporter on a file of a folder
    └── VerificationFailed       exit 3: the graph does not match the weights
        └── OutputsDiffer        the graph does not match the recorded outputs of the trained model

A message has the form "<what failed>: <value found>, expected <what>". `code` is the stable id of the error and `hint`
the action that solves the problem.
"""

from __future__ import annotations

import copy
import functools
from typing import Self

from kanexport.shared.cli.console import Exit, Failure

LISTED = 24  # values that an open question names

# Hints of several errors.
USE_MODULE = "export the PyTorch module instead: --module PKG.MOD:FACTORY"
SAVE_AGAIN = "save the complete state dict again"
CHECK_FAMILY = "check that --family names the library of the checkpoint, and that the file is complete"
REPAIR = "export an earlier checkpoint, from before the weights became NaN or infinite"
REPORT = "nothing was written; report this bug with the file, or with the code that made it"


class ExportError(Failure):
    """Base class of export failures.

    message    the failure
    code       stable id of the error, such as "checkpoint-not-found"
    hint       the action that solves the problem, or empty
    exit_code  the program's exit code
    """

    def at(self, where: str) -> Self:
        """The same error. Its message begins with the place where it happened."""
        moved = copy.copy(self)
        moved.message = f"{where}: {self.message}"
        moved.args = (moved.message,)
        return moved


class CheckpointError(ExportError):
    """Failure to read a checkpoint: the file is missing, truncated, too large or of an unknown format."""


class DamagedCheckpoint(CheckpointError):
    """Checkpoint file that is damaged, cut off, or not as its library writes it."""

    code = "checkpoint-damaged"
    hint = "copy or download the file again"
    kind = CheckpointError.__name__


class UnsafeCheckpoint(CheckpointError):
    """Pickle that names something other than tensors. The exporter did not execute it."""


class FamilyError(ExportError):
    """Tensors that do not identify the library, or the order of its layers."""


class OptionError(ExportError):
    """Unknown, malformed or missing option: an `--option`, a function or an architecture file."""


def needs(flag: str, other: str, hint: str = "") -> OptionError:
    """The error for a flag of a command without the `other` flag that it needs."""
    return OptionError(
        f"{flag} needs {other}", code="option-needs-other", hint=hint or f"add {other}, or remove {flag}"
    )


class OpenQuestion(OptionError):
    """Missing fact `key` that the file leaves open. It must be one of the values `among`, given by the user or
    decided by recorded outputs of the trained model."""

    code = "option-required"
    hint = "pass the value with --option KEY=VALUE, or recorded outputs with --expected-outputs FILE"

    def __init__(self, message: str, key: str = "", among: tuple[str, ...] = (), *, hint: str = "") -> None:
        values = " | ".join(among if len(among) <= LISTED else (*among[: LISTED - 1], "...", among[-1]))
        advice = f"pass --option {key}={values}, or recorded outputs with --expected-outputs FILE"
        super().__init__(message, hint=hint or advice)
        self.key, self.among = key, among


class MissingFunctions(OptionError):
    """Symbolic edges without known functions. The user or recorded outputs of the trained model have to name them.

    keys   the options that name the functions, one per edge
    among  the names of known functions
    """

    code = "functions-required"

    # With defaults, because `copy.copy` of `at` passes the message only.
    def __init__(
        self, message: str, keys: tuple[str, ...] = (), among: tuple[str, ...] = (), *, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.keys, self.among = keys, among


class InvalidKan(ExportError):
    """Numbers that do not describe a KAN: not finite, not increasing, or with shapes that do not chain."""


class LayerSkipped(InvalidKan):
    """Reason why a submodule of a PyTorch module is not replaced by a KAN layer. It usually becomes a note."""

    code = "layer-not-recognized"
    hint = "leave the submodule to torch.onnx with --option keep=NAME"


class ModuleRefused(InvalidKan):
    """PyTorch module that cannot be run on the example rows, traced, or served row by row."""


class UnknownFunction(InvalidKan):
    """Function name that is not in the table of functions."""


class RepositoryError(ExportError):
    """Version that exists already, or model repository that cannot be written."""


class LimitExceeded(ExportError):
    """Export that needed more time or memory than its limit."""


class Crashed(ExportError):
    """Internal error of the exporter on a file that it should have rejected."""

    code = "exporter-crashed"
    hint = REPORT


class VerificationFailed(ExportError):
    """Difference between the exported graph and the float64 evaluation that exceeds the tolerance."""

    exit_code = Exit.UNPROVED


class OutputsDiffer(VerificationFailed):
    """Difference between the recorded outputs of the trained model and those of the graph."""


# Errors that several modules raise, each with its code and its usual hint. A call passes the message, or another hint.
weights_not_finite = functools.partial(InvalidKan, code="weights-not-finite", hint=REPAIR)
tensors_inconsistent = functools.partial(InvalidKan, code="tensors-inconsistent", hint=CHECK_FAMILY)
network_too_large = functools.partial(InvalidKan, code="network-too-large", hint="export a smaller network")
rows_not_finite = functools.partial(OptionError, code="rows-not-finite", hint="remove rows with NaN or infinity")
arguments_conflict = functools.partial(OptionError, code="arguments-conflict", hint="remove one of the two")
option_out_of_range = functools.partial(OptionError, code="option-out-of-range")
option_value_unknown = functools.partial(OptionError, code="option-value-unknown")
memory_limit_exceeded = functools.partial(LimitExceeded, code="memory-limit-exceeded")
internal_check_failed = functools.partial(VerificationFailed, code="internal-check-failed", hint=REPORT)
