"""The notebooks of examples/: stored without outputs, and runnable from training to drift, and to an edited model.

The tests run them if `make notebook` has installed their dependencies.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiers import full

EXAMPLES = Path(__file__).parent.parent / "examples"
DRIFT, EDIT = EXAMPLES / "from_training_to_drift.ipynb", EXAMPLES / "from_training_to_edit.ipynb"
SECONDS = 240  # for a machine that is busy; 30 to 40 where it is not
# By notebook: packages, pictures, and printed texts.
RUNS = {
    DRIFT: (
        ("nbclient", "ipykernel", "kan", "shap"),
        {"image/png": 4, "image/svg+xml": 1},
        ("verified against the trained model", "largest drift: alcohol"),
    ),
    EDIT: (
        ("nbclient", "ipykernel", "kan", "sklearn"),
        {"image/png": 2},
        ("verified against the trained model", "'serum': 'increasing'", "default version: 1", "default version 2"),
    ),
}


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_all_notebooks_are_tested() -> None:
    assert set(RUNS) == set(EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_it_keeps_nothing_of_a_run(path: Path) -> None:
    """Its only folder is a temporary one, which it removes with the server."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    code = "\n".join("".join(cell["source"]) for cell in cells(path))
    assert code.count("mkdtemp") == code.count("shutil.rmtree(folder)") == 1
    assert "server.terminate()" in code


@full("document")
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, expected_pictures, texts = RUNS[path]
    for needed in packages:
        pytest.importorskip(needed, reason="`make notebook` has it")
    import nbformat
    from nbclient import NotebookClient

    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in [name for name in os.environ if name.startswith("KANSERVE_")]:
        monkeypatch.delenv(name)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = Counter(kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/"))
    assert pictures == expected_pictures
    printed = "".join(o["text"] for o in outputs if o.output_type == "stream" and o.name == "stdout")
    for text in (*texts, "the server exited with code 0"):
        assert text in printed
    assert not list(tmp_path.glob("kanserve-notebook-*"))
