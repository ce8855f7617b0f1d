"""Exceptions that carry a stable code and a hint. A caller that converts one keeps both. Standard library only."""

from __future__ import annotations

from kanexport.shared.cli.console import kebab


class CodedError(ValueError):
    """Invalid value or file.

    code  stable id of the error, such as "csv-not-a-number"; without one, the class name in lower case
    hint  the action that solves the problem, or empty
    """

    code: str = ""
    hint: str = ""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code or kebab(type(self).__name__)
        self.hint = hint or self.hint
