"""Protocol messages, loaded into a descriptor pool of their own.

NOTE: Two modules that define `inference.*` in protobuf's default pool cannot
live in one process. tritonclient and kserve both do; so ours stay out of it.
Consequence: our messages are not picklable, and reflection wants `pool()`.

`descriptors.binpb`, `sources.json` and the stubs are generated:
`python -m kanserve.pb` makes them, `--check` proves them fresh.
"""

from __future__ import annotations

from kanserve.pb._pool import pool

__all__ = ["pool"]
