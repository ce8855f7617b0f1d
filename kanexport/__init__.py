"""kanexport: a checkpoint becomes a Kan, a Kan becomes a graph, the graph is proved, the proof is packed.

The page to read first is `kanexport/pipeline.py`. The service shares a folder on
disk with this package, the contract about it, `kanexport/manifest.py`, and one
voice, `kanexport/shared/`.

`kanexport.export(module, rows, name=...)` exports a living torch module; it is
imported at its first use, because it needs torch and the service must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanexport.hybrid.api import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name != "export":
        raise AttributeError(f"module 'kanexport' has no attribute {name!r}")
    try:
        from kanexport.hybrid.api import export
    except ModuleNotFoundError as error:
        from kanexport.shared.installing import how_to_install

        raise ImportError(f"kanexport.export needs {error.name}: {how_to_install('torch')}", name=error.name) from error
    return export
