"""Entry point of `python -m kanexport`, which runs `kanserve export`."""

import sys

from kanexport.shared.cli import program, suggest

CONSOLE = "kanexport.cli.export_command"

raise SystemExit(
    program.run("kanserve export", sys.argv[1:], lambda: int(suggest.load("export", CONSOLE, "export").main()))
)
