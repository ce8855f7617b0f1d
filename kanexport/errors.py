"""Everything that can go wrong with an export.

    ExportError                  exit 2: the input or the command is wrong
    ├── CheckpointError          a file that cannot be read as a checkpoint
    │   └── UnsafeCheckpoint     a pickle that asks for more than tensors
    ├── FamilyError              no family, or more than one, fits the tensors
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

from kanexport.shared.voice import Exit, Failure


class ExportError(Failure):
    """Base of all export failures. `hint` is one sentence of advice, or empty."""


class CheckpointError(ExportError):
    """The file is missing, truncated, too large or of a format that is not read."""


class UnsafeCheckpoint(CheckpointError):
    """The pickle names something other than tensors; nothing of it was executed."""


class FamilyError(ExportError):
    """The tensors do not say which library wrote them."""


class OptionError(ExportError):
    """An `--option` is unknown, malformed, or one is needed and was not given."""


class InvalidKan(ExportError):
    """The numbers do not describe a KAN: not finite, not increasing, not chaining."""


class UnknownFunction(InvalidKan):
    """A function name that is in no table."""


class RepositoryError(ExportError):
    """The version exists already, or the folder cannot be written."""


class LimitExceeded(ExportError):
    """The export of one file needed more time or memory than it was given."""


class Crashed(ExportError):
    """The exporter failed where it should have refused: a fault of ours."""

    ADVICE = "this is a fault of the exporter; please report it with the file, or how it was made"


class VerificationFailed(ExportError):
    """The exported graph differs from the float64 evaluation by more than allowed."""

    exit_code = Exit.UNPROVED
