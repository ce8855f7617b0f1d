"""What can be said of a server before it runs: `kanserve serve --check`."""

from __future__ import annotations

from collections.abc import Iterator

from kanserve.diagnosis import callers, certificates, folder, keeping, machine, ports
from kanserve.diagnosis.finding import Finding, ok
from kanserve.origins import DEFAULT, Loaded


def ahead(loaded: Loaded, *, running: bool = False) -> Iterator[Finding]:
    """Settings that are right, and what they name and need. Starts nothing. `running`: a server may have the ports."""
    settings = loaded.settings
    yield ok("settings", loaded.told())
    yield from certificates.look(settings)
    yield from callers.look(settings)
    if not running:
        yield from ports.look(settings)
    yield machine.transport(settings)
    yield from machine.runtime(settings)
    yield machine.processors(settings)
    yield machine.files(settings)
    yield from keeping.look(settings)
    if loaded.origins["repository"] != DEFAULT:
        yield from folder.look(settings)
