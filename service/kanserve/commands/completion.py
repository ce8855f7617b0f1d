"""`kanserve completion bash`: a script with which a shell completes commands, flags and choices."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from kanexport.shared.arguments import Parser
from kanexport.shared.output import emit, print_json
from kanexport.shared.voice import Exit
from kanserve.console import shell

TEXT = """Print completion for bash, zsh or fish: of commands, flags and their choices.

The script is for this version of kanserve; print it again after an update.
"""
EXAMPLES = """examples:
  kanserve completion bash > ~/.local/share/bash-completion/completions/kanserve
  source <(kanserve completion bash)       in this shell alone
  kanserve completion zsh > ~/.zfunc/_kanserve      with fpath+=~/.zfunc before compinit
  kanserve completion fish > ~/.config/fish/completions/kanserve.fish
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    parser.add_argument("shell", choices=tuple(shell.SHELLS), help="which shell")
    parser.add_argument("--json", action="store_true", help="the script as one JSON document")


def run(args: argparse.Namespace) -> int:
    """Returns 0. `args.every_parser` gives the parsers of all commands that are installed."""
    every_parser: Callable[[], Mapping[str, Parser]] = args.every_parser
    text = shell.script(args.shell, every_parser())
    if args.json:
        print_json({"shell": args.shell, "script": text})
    else:
        emit(text)
    return Exit.DONE
