"""Errors of numpy about a damaged .npy or .npz file."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib

# MemoryError: the header gives a size that no memory has. RuntimeError: the archive is encrypted, or has a compression
# that Python lacks.
DAMAGED = (
    *(ValueError, EOFError, OSError, KeyError, OverflowError, MemoryError, RuntimeError, SyntaxError, TypeError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
