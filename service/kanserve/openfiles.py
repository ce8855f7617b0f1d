"""How many connections the process may hold open: each is a file, and so is much else."""

from __future__ import annotations

import resource

# For files that are no connections of callers: models as they load, the log, scrapes, the runtime's own.
RESERVED = 64


def connections(wanted: int) -> int:
    """`wanted`, or fewer where the system's limit on open files allows no more, at least 1.

    Raises the process' own limit first, as far as the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED
    if _below(soft, needed):
        soft = min(needed, hard) if _below(hard, needed) else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - RESERVED) if _below(soft, needed) else wanted


def _below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
