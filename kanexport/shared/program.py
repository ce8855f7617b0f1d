"""The frame around a command: what becomes of its errors. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from kanexport.shared import voice
from kanexport.shared.arguments import UsageError
from kanexport.shared.output import print_json
from kanexport.shared.voice import Exit, Failure


def run(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    """The exit code of `act`, or of the Failure that ended it, which is printed."""
    try:
        code = _answer(program, arguments, act)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader left. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return code


def _answer(program: str, arguments: Sequence[str], act: Callable[[], int]) -> int:
    try:
        return act()
    except Failure as failure:
        if isinstance(failure, UsageError) and failure.usage:
            print(failure.usage, file=sys.stderr)
        print(voice.text(program, failure), file=sys.stderr)
        if "--json" in arguments:
            print_json(voice.document(failure))
        return int(failure.exit_code)
