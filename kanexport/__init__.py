"""Exporter of trained Kolmogorov-Arnold networks (KANs): reads a checkpoint, lowers it to ONNX, verifies the graphs,
and writes a bundle.

The page to read first is `kanexport/pipeline.py`. The service shares
`kanexport/shared/` with this package, and the bundle on disk (`kanexport/shared/manifest.py`).

`kanexport.export(module, rows, name=...)` exports a living torch module, and
`kanexport.record_outputs(module, rows, path)` records its outputs, for an export to be
compared with. Both are imported at their first use, because they need torch and the service must not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanexport.torch_export.api import export, record_outputs

__all__ = ["export", "record_outputs"]

HOMES = {"export": "kanexport.torch_export.api", "record_outputs": "kanexport.torch_export.api"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'kanexport' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(HOMES[name]), name)
    except ModuleNotFoundError as error:
        from kanexport.shared.cli.suggest import how_to_install

        raise ImportError(f"kanexport.{name} needs {error.name}: {how_to_install('torch')}", name=error.name) from error
