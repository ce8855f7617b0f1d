"""Write the generated pages of docs/reference and the schema of the Helm chart's values, or check them.

python -m tools.reference            writes the files (`make reference`)
python -m tools.reference --check    exits with 1 and names the files that differ
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from kanserve.config import reference as settings
from tools.reference import helm_values

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
# Page -> module of this package that writes it.
PAGES = {
    "alerts.md": "alerts",
    "cli.md": "cli",
    "errors.md": "errors",
    "grpc-api.md": "grpc_api",
    "helm-values.md": "helm_values",
    "metrics.md": "metrics",
    "openapi.json": "openapi",
    "python-api.md": "python_api",
    "supported-libraries.md": "libraries",
}
# The folder of the chart has a link to this file.
VALUES_SCHEMA = "helm-values.schema.json"


def texts() -> dict[str, str]:
    """The text of each generated file, by file name."""
    pages = {name: importlib.import_module(f"tools.reference.{module}").page() for name, module in PAGES.items()}
    pages = {name: text.rstrip() + "\n" for name, text in pages.items()}
    return {**settings.texts(), **pages, VALUES_SCHEMA: helm_values.schema_text()}


def differing() -> list[str]:
    """Names of the files whose text is not what the code says."""
    files = ((name, text, FOLDER / name) for name, text in texts().items())
    return [name for name, text, file in files if not file.is_file() or file.read_text() != text]


def main(arguments: list[str]) -> int:
    """Write the files, or check them."""
    if arguments == ["--check"]:
        names = differing()
        for name in names:
            print(f"docs/reference/{name} differs from the code; run make reference", file=sys.stderr)
        return 1 if names else 0
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
