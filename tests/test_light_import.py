"""Fast imports: the shared contract and `--help` load no heavy package."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["numpy", "onnx", "onnxruntime", "torch", "grpc", "google.protobuf", "yaml", "safetensors", "pyarrow"]
HEAVY += ["prometheus_client", "pydantic", "rich", "structlog", "mlflow"]


def loaded(code: str) -> set[str]:
    """Heavy top-level modules a fresh interpreter has loaded after running code."""
    script = f"{code}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_contract_needs_the_standard_library_alone() -> None:
    assert loaded("import kanexport.contract.manifest") == set()


@pytest.mark.parametrize("name", ["cli.console", "cli.program", "cli.suggest", "csv_text", "atomic", "temp_dirs"])
def test_the_shared_voice_needs_the_standard_library_alone(name: str) -> None:
    assert loaded(f"import kanexport.contract.{name}") == set()


def test_the_python_transport_opens_at_its_first_use() -> None:
    assert loaded("import kanserve; assert 'Client' in dir(kanserve)") == set()
    assert "grpc" in loaded("from kanserve import Client")
    assert loaded("from kanserve import ClientError, NotFound") == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['kanserve', '--help']\n"
        "from kanserve.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass"
    )
    assert loaded(code) == set()


def test_mlflow_is_imported_at_its_first_use() -> None:
    assert "mlflow" not in loaded("import kanexport.mlflow, kanexport.cli.export_command")


@pytest.mark.parametrize("module", ["kanexport.cli.export_command", "kanserve.server.app"])
def test_the_product_never_loads_torch(module: str) -> None:
    assert "torch" not in loaded(f"import {module}")
