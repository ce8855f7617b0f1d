"""Where something was measured, and when."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np


def facts(runtime: str, load: float) -> dict[str, Any]:
    """`runtime`: its name and version; `load`: threads of the machine, on average, that ran or waited for a core."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": runtime,
        "load": load,
    }


def processor() -> str:
    """As Linux calls it, else the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
