"""Where the process is between its start and its end; one object, set by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lifecycle:
    """`draining`: not ready any more, still answering. `closed`: new requests are turned away."""

    draining: bool = False
    closed: bool = False
