"""The operator that is a whole layer of splines, and the package that has it: `kanserve[kernel]`, which nobody needs.

A graph with it stands beside the portable one, in a file of its own. Standard library only.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path

DOMAIN, OPERATOR, DOMAIN_VERSION = "kanserve", "SplineLayer", 1
KERNEL_FILE = "model.kernel.onnx"
PACKAGE = "kanserve_kernel"
DEGREES = (1, 2, 3)  # of its splines
NARROWEST, WIDEST = 1e-10, 1e10  # cells that it takes, as kernel/src/prepare.cpp refuses others
HOW_TO_INSTALL = "`make kernel` in a checkout of kanserve builds and installs it, with g++"


def library() -> str:
    """The path of the operator's library, "" where it is not installed or made for another machine."""
    try:
        found = str(Path(importlib.import_module(PACKAGE).LIBRARY))
    except ImportError:
        return ""
    return found if _loads(found) else ""


@functools.cache
def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True
