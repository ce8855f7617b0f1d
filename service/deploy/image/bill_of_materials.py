"""Bill of materials of an image, as CycloneDX 1.6 in JSON. A step of the image build.

    python bill_of_materials.py ENVIRONMENT ROOT OUTPUT

The components are Python, the Python packages of the virtual environment ENVIRONMENT, and Debian's packages that
`runtime_root.py` recorded in ROOT. The same components give the same bytes: the document has no time, and its serial
number is computed from them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path
from typing import Any

PRODUCT = "kanserve"


def component(kind: str, name: str, version: str, url: str, license_text: str = "") -> dict[str, Any]:
    """One component. `url`: its package URL (purl), without the version."""
    reference = f"{url}@{urllib.parse.quote(version, safe='.-+~')}"
    described: dict[str, Any] = {
        "type": kind,
        "bom-ref": reference,
        "name": name,
        "version": version,
        "purl": reference,
    }
    if license_text:
        described["licenses"] = [{"license": {"name": license_text}}]
    return described


def python_packages(environment: Path) -> Iterator[dict[str, Any]]:
    """The packages of a virtual environment, by their metadata."""
    for folder in sorted(environment.glob("lib/python3.*/site-packages")):
        for package in importlib.metadata.distributions(path=[str(folder)]):
            metadata = package.metadata
            texts = [metadata[field] for field in ("License-Expression", "License") if field in metadata]
            text = texts[0].strip() if texts else ""
            short = text if "\n" not in text and len(text) < 80 else ""
            name = str(metadata["Name"]).lower().replace("_", "-").replace(".", "-")
            yield component("library", name, package.version, f"pkg:pypi/{name}", short)


def system_packages(root: Path) -> Iterator[dict[str, Any]]:
    """Debian's packages that are recorded in a root file system."""
    for file in sorted((root / "var/lib/dpkg/status.d").glob("*")):
        fields = Parser().parsestr(file.read_text(), headersonly=True)
        name, version = str(fields["Package"]), str(fields["Version"])
        yield component("library", name, version, f"pkg:deb/debian/{name}")


def document(environment: Path, root: Path) -> dict[str, Any]:
    """The whole document. Raises StopIteration if the product is not among the packages."""
    version = platform.python_version()
    packages = [
        component("platform", "python", version, "pkg:generic/python", "PSF-2.0"),
        *python_packages(environment),
        *system_packages(root),
    ]
    packages.sort(key=lambda item: str(item["purl"]))
    product = next(item for item in packages if item["name"] == PRODUCT)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(packages))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {**product, "type": "container", "bom-ref": "image"}},
        "components": packages,
    }


def main(arguments: Sequence[str]) -> int:
    """Write the document. The exit code is 1 if the environment does not contain the product."""
    try:
        environment, root, output = map(Path, arguments)
        written = document(environment, root)
    except (ValueError, StopIteration) as error:
        reason = str(error) or f"{PRODUCT} is not among the packages of the environment"
        print(
            f"bill_of_materials: {reason}; usage: python bill_of_materials.py ENVIRONMENT ROOT OUTPUT", file=sys.stderr
        )
        return 1
    output.write_text(json.dumps(written, indent=1) + "\n")
    print(f"{output}: {len(written['components'])} components")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
