"""What an export made, for machines: the document that `--json`, `--report` and the sweep's workers write.
What went wrong is told by `kanexport.shared.voice`."""

from __future__ import annotations

import dataclasses
from typing import Any

from kanexport.packing.publish import Result


def document(result: Result) -> dict[str, Any]:
    """One export as `--json` prints it."""
    manifest = result.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "directory": str(result.directory),
        "family": manifest.source.family,
        "family_reason": manifest.source.family_reason,
        "dtype": manifest.source.dtype,
        "widths": list(manifest.widths),
        "edge_class": manifest.edge_class,
        "verified": manifest.claim,
        "outside": manifest.outside,
        "approximation": dataclasses.asdict(manifest.approximation),
        "options": {
            "given": manifest.source.options_given,
            "assumed": manifest.source.options_assumed,
            "decided": manifest.source.options_decided,
            "alternatives": manifest.source.alternatives,
        },
        "verification": dataclasses.asdict(manifest.verification),
        "variants": [dataclasses.asdict(variant) for variant in manifest.variants],
        "explanations": dataclasses.asdict(manifest.explanations),
        "files": {entry.path: entry.size for entry in manifest.files},
        "notes": list(manifest.notes),
    }
