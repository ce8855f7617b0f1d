"""Exceptions of an export.

    ExportError                  exit 2: the input or the command is wrong
    ├── CheckpointError          a file that cannot be read as a checkpoint
    │   └── UnsafeCheckpoint     a pickle that asks for more than tensors
    ├── FamilyError              the tensors do not tell the library, or the order of its layers
    ├── OptionError              a fact is missing, unknown or malformed
    │   ├── OpenQuestion         nothing tells it, and no value is likelier than another
    │   └── MissingFunctions     symbolic edges whose functions no file names
    ├── InvalidKan               weights, knots or shapes that are no KAN
    │   └── UnknownFunction      a function name outside the known table
    ├── RepositoryError          the model repository refuses the result
    ├── LimitExceeded            a file of a folder took more time or memory than allowed
    ├── Crashed                  the exporter itself failed on a file of a folder
    └── VerificationFailed       exit 3: the graph does not match the weights
        └── OutputsDiffer        the trained model gives something else

Messages name the thing, what was found and what was expected; `hint` says what
to do about it.
"""

from __future__ import annotations

import copy
from typing import Self

from kanexport.contract.cli.console import Exit, Failure

LISTED = 24  # values that an open question names


class ExportError(Failure):
    """Base class of export failures.

    message    the failure
    code       stable id of the error, such as "checkpoint-not-found"
    hint       the action that solves the problem, or empty
    exit_code  the program's exit code
    """

    def at(self, where: str) -> Self:
        """The same error, its message beginning with where it happened."""
        moved = copy.copy(self)
        moved.message = f"{where}: {self.message}"
        moved.args = (moved.message,)
        return moved


class CheckpointError(ExportError):
    """Failure to read a checkpoint: the file is missing, truncated, too large or of an unknown format."""


class UnsafeCheckpoint(CheckpointError):
    """Pickle that names something other than tensors; nothing of it was executed."""


class FamilyError(ExportError):
    """Ambiguous tensors: they do not show which library wrote them, or in which order its layers follow."""


class OptionError(ExportError):
    """Unknown, malformed or missing option: an `--option`, a function or an architecture file."""


class OpenQuestion(OptionError):
    """Missing fact `key` that the file leaves open, and that must be one of the values `among`: the user says which, or
    recorded outputs of the trained model do."""

    def __init__(
        self, message: str, key: str = "", among: tuple[str, ...] = (), *, code: str = "", hint: str = ""
    ) -> None:
        values = " | ".join(among if len(among) <= LISTED else (*among[: LISTED - 1], "...", among[-1]))
        advice = f"pass --option {key}={values}, or recorded outputs with --expected-outputs FILE"
        super().__init__(message, code=code, hint=hint or advice)
        self.key, self.among = key, among


class MissingFunctions(OptionError):
    """Missing functions of symbolic edges: no file names them. The user or recorded outputs have to decide them.

    keys   the options that name the functions, one per edge
    among  the names of known functions
    """

    def __init__(
        self,
        message: str,
        keys: tuple[str, ...] = (),
        among: tuple[str, ...] = (),
        *,
        code: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.keys, self.among = keys, among


class InvalidKan(ExportError):
    """Numbers that do not describe a KAN: not finite, not increasing, not chaining."""


class UnknownFunction(InvalidKan):
    """Function name that is in no table."""


class RepositoryError(ExportError):
    """Version that exists already, or model repository that cannot be written."""


class LimitExceeded(ExportError):
    """Export of one file that needed more time or memory than its limit."""


class Crashed(ExportError):
    """Internal error of the exporter, where it should have refused the file."""

    ADVICE = "this is a fault of the exporter; please report it with the file, or how it was made"


class VerificationFailed(ExportError):
    """Difference between the exported graph and the float64 evaluation that is larger than allowed."""

    exit_code = Exit.UNPROVED


class OutputsDiffer(VerificationFailed):
    """Difference between the trained model's recorded outputs and those of the file, as it was read."""
