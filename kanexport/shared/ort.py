"""onnxruntime without its telemetry: `from kanexport.shared.ort import onnxruntime`.

On Linux onnxruntime writes a device id into the user's cache folder, opens a
database of events and starts a thread while it is imported, before any function of
it can be called. Only the environment can forbid that, and it has to be set first.
So this is the one file that imports onnxruntime; `tests/test_code_rules.py` and
ruff refuse every other import of it.
"""

from __future__ import annotations

import os

__all__ = ["onnxruntime"]

# Not setdefault: an empty value or "0" would switch the telemetry on.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # the line above has to come first

# A program that had imported onnxruntime before it asked us: no more events from here on.
onnxruntime.disable_telemetry_events()
