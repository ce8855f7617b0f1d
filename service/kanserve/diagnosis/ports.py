"""Whether the ports can be listened on: free, allowed, and of an address that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

from kanserve.config import Settings
from kanserve.diagnosis.finding import Finding, ok, problem
from kanserve.doors import listening
from kanserve.errors import ConfigError


def look(settings: Settings) -> Iterator[Finding]:
    """One finding a port. Each is bound for a moment; nobody is answered there."""
    try:
        ports = listening.every(settings)
    except ConfigError as error:
        yield _problem(error)
        return
    for port in ports:
        if wrong := listening.tried(port):
            yield _problem(wrong)
        else:
            yield ok(port.name, f"{port.place} is free" if port.port else f"any free port of {port.host}")


def _problem(error: ConfigError) -> Finding:
    about, _, text = str(error).partition(": ")
    return problem(about, text, error.hint)
