"""Path of the custom operator's library, which kanserve loads into onnxruntime. `make kernel` builds it."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).parent / "libkanserve_kernel.so"
VERSION = "0.2.0"
