"""Results of several servers in a command: how many replied, and which did not. A sum without a server says so."""

from __future__ import annotations

from typing import Any

from kanexport.shared.cli.console import Exit, exit_codes_of, note
from kanserve.client.fleet import Replies

EXITS = exit_codes_of(FAILED="a server of several did not reply, so that the sum is partial; or another failure")


def document(replies: Replies[Any]) -> dict[str, Any]:
    """Fields of a JSON document. Empty for one server."""
    if len(replies.by_server) + len(replies.missing) == 1:
        return {}
    missing = {address: str(error) for address, error in replies.missing.items()}
    return {"servers": list(replies.by_server), "missing_servers": missing}


def end(replies: Replies[Any]) -> int:
    """Exit code of the command, after notes on the number of servers and on those without a reply."""
    replied, missing = len(replies.by_server), replies.missing
    if replied + len(missing) > 1:
        note(f"{'partial sum' if missing else 'sum'} of {replied} of {replied + len(missing)} servers")
    for address, error in missing.items():
        note(f"  {address} did not reply: {error}")
    return Exit.FAILED if missing else Exit.DONE
