"""Native code of the package kanserve-kernel, if it is installed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Coroutine
from typing import Any

MODULE = "kanserve_kernel.calls"


@functools.cache
def calls() -> Any:
    """The extension module for direct calls; None if it is absent or does not fit this Python. Without it, the server
    handles the calls in Python, with the same results."""
    try:
        module = importlib.import_module(MODULE)
    except ImportError:
        return None
    Coroutine.register(module.Call)  # so that asyncio makes tasks of them
    return module
