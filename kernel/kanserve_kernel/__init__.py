"""Where the operator's library lies; kanserve loads it into onnxruntime. `make kernel` builds it."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).parent / "libkanserve_kernel.so"
VERSION = "0.2.0"
