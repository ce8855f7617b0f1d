"""Everything that can go wrong with an export.

    ExportError                  exit 2: the input or the command is wrong
    ├── CheckpointError          a file that cannot be read as a checkpoint
    │   └── UnsafeCheckpoint     a pickle that asks for more than tensors
    ├── FamilyError              the tensors do not tell the library, or the order of its layers
    │   └── Undecided            a fact that no file tells, which has no likely value
    ├── OptionError              a fact is missing, unknown or malformed
    ├── InvalidKan               weights, knots or shapes that are no KAN
    │   └── UnknownFunction      a function name outside the known table
    ├── RepositoryError          the model repository refuses the result
    ├── LimitExceeded            a file of a folder took more time or memory than allowed
    ├── Crashed                  the exporter itself failed on a file of a folder
    └── VerificationFailed       exit 3: the graph does not match the weights

Messages name the thing, what was found and what was expected; `hint` says what
to do about it.
"""

from __future__ import annotations

import copy
from typing import Self

from kanexport.shared.voice import Exit, Failure


class ExportError(Failure):
    """Base of all export failures. `message` says what is wrong, `hint` what to do about it, or
    is empty; `exit_code` is the program's."""

    def within(self, where: str) -> Self:
        """The same error, with the place where it happened before the message."""
        placed = copy.copy(self)
        placed.message = f"{where}: {self.message}"
        placed.args = (placed.message,)
        return placed


class CheckpointError(ExportError):
    """The file is missing, truncated, too large or of a format that is not read."""


class UnsafeCheckpoint(CheckpointError):
    """The pickle names something other than tensors; nothing of it was executed."""


class FamilyError(ExportError):
    """The tensors do not say which library wrote them, or in which order its layers follow."""


class Undecided(FamilyError):
    """A fact is in no file and has no likely value: `key` is its option, `values` are the known ones."""

    key: str = ""
    values: tuple[str, ...] = ()

    @classmethod
    def between(cls, key: str, values: tuple[str, ...], message: str, hint: str) -> Self:
        """The error for one option and its known values."""
        error = cls(message, hint=hint)
        error.key, error.values = key, values
        return error


class OptionError(ExportError):
    """What the user gave (an `--option`, a function, a list of steps) is unknown or malformed,
    or a fact is needed and was not given."""


class InvalidKan(ExportError):
    """The numbers do not describe a KAN: not finite, not increasing, not chaining."""


class UnknownFunction(InvalidKan):
    """A function name that is in no table."""


class RepositoryError(ExportError):
    """The version exists already, or the model repository cannot be written."""


class LimitExceeded(ExportError):
    """The export of one file needed more time or memory than it was given."""


class Crashed(ExportError):
    """The exporter failed where it should have refused: a fault of ours."""

    ADVICE = "this is a fault of the exporter; please report it with the file, or how it was made"


class VerificationFailed(ExportError):
    """The exported graph differs from the float64 evaluation by more than allowed."""

    exit_code = Exit.UNPROVED
