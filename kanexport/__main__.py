"""`python -m kanexport` is `kanserve export`."""

import sys

from kanexport.shared import installing, program

CONSOLE = "kanexport.console.cli"

raise SystemExit(
    program.run("kanserve export", sys.argv[1:], lambda: int(installing.load("export", CONSOLE, "export").main()))
)
