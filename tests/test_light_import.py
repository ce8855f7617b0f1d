"""Fast imports: `kanexport.shared` and `--help` load no heavy package."""

import subprocess
import sys

HEAVY = ["numpy", "onnx", "onnxruntime", "torch", "grpc", "google.protobuf", "yaml", "safetensors", "pyarrow"]
HEAVY += ["prometheus_client", "pydantic", "rich", "structlog", "mlflow"]
LIGHT = ("manifest", "cli.console", "cli.program", "cli.suggest", "csv_text", "atomic", "temp_dirs")


def loaded(code: str) -> set[str]:
    """Heavy top-level modules a fresh interpreter has loaded after running code."""
    script = f"{code}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_shared_code_needs_the_standard_library_alone() -> None:
    assert loaded("\n".join(f"import kanexport.shared.{name}" for name in LIGHT)) == set()


def test_the_python_transport_opens_at_its_first_use() -> None:
    names = "import kanserve; assert 'Client' in dir(kanserve)\nfrom kanserve import ClientError, NotFound"
    assert loaded(names) == set()
    assert "grpc" in loaded("from kanserve import Client")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['kanserve', '--help']\n"
        "from kanserve.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass"
    )
    assert loaded(code) == set()


def test_the_product_never_loads_torch_and_loads_mlflow_at_its_first_use() -> None:
    modules = ("kanexport.contrib.mlflow", "kanexport.cli.export_command", "kanserve.server.app")
    assert not {"torch", "mlflow"} & loaded(f"import {', '.join(modules)}")
    assert not {"onnx", "yaml"} & loaded("import kanserve.server.app")
