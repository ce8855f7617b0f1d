"""Errors about files and their rows: those that end a command, and those of a table that is scored."""

from __future__ import annotations

from kanexport.shared.cli.console import Failure
from kanserve.errors import KanserveError


class CommandError(Failure):
    """Failure that ends a command. `kind` names the cause: the class of a client error or of a settings error."""


class InputError(CommandError):
    """Invalid file or argument."""


class TableError(KanserveError):
    """Table that cannot be scored.

    column  name of its column, or empty
    row     number of the row in the batch, from 0; -1 if the whole column or the table is the reason
    line    number of the line in a CSV, from 1; 0 if it is not known
    """

    def __init__(self, text: str, *, code: str, hint: str, column: str = "", row: int = -1, line: int = 0) -> None:
        super().__init__(text, code=code, hint=hint)
        self.column, self.row, self.line = column, row, line

    def located(self, place: str, rows_before: int = 0, *, line: int = 0) -> TableError:
        """The same error with the place of its batch, such as "part.parquet, row group 3", and the `line` of a CSV or
        the row of another file."""
        row, line = f", row {rows_before + self.row}" if self.row >= 0 else "", line or self.line
        text = f"{place}{f', line {line}' if line else row}: {self}"
        return TableError(text, code=self.code, hint=self.hint, column=self.column, row=self.row, line=line)
