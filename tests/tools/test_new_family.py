"""`make new-family NAME=...` in a copy of the tree: the files that it writes work unchanged."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.golden_cases import OWN
from tests.support.tiers import full
from tools.new_family import __main__ as new_family

ROOT = Path(__file__).parents[2]
PARTS = ("kanexport", "service", "tests", "tools", "docs", "README.md", "pyproject.toml")
NAME, FAMILY = "my_kan", "my-kan"
NAMES = (NAME, "k", "a_name_of_thirty_characters_ab")  # of an ordinary length, short and long
EXPECTED = {" M docs/reference/supported-libraries.md"}
for made in NAMES:
    tests = (f"tests/support/basis_examples/{made}.py", f"tests/golden/generators/make_{made}.py")
    modules = (f"kanexport/bases/{made}.py", f"kanexport/readers/{made}.py", *tests)
    case = f"tests/golden/checkpoints/{made.replace('_', '-')}-hello"
    files = (*modules, *(f"{case}/{name}" for name in ("case.json", "model.safetensors", "reference.npz")))
    EXPECTED |= {f"?? {file}" for file in files}
EVERYTHING = ("--certify", "--certify-budget", "1s", "--kernel", "--c", "c")
RULES = "mirror or deep or docstring or participle or unfinished"
# Every file that finds families by themselves: bases, golden cases, and a real server.
FINDING = (
    "tests/kanexport/bases/test_bases.py",
    "tests/kanexport/test_pipeline.py",
    "tests/integration/test_golden_served.py",
)


def run(folder: Path, *command: str) -> str:
    """Run a command in the copy, with the copy's packages; what it printed."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'service'}", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def git(folder: Path, *arguments: str) -> str:
    return run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which the families were made, under git."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("tree")
    # Without the other golden cases: the new one is what is tried.
    ignored = shutil.ignore_patterns("__pycache__", ".*", *(path.name for path in OWN.iterdir()))
    for part in PARTS:
        source = ROOT / part
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    shutil.copy(ROOT / ".gitignore", folder)
    if (known := ROOT / ".mypy_cache").is_dir():  # what `make check` found; a quarter of a minute less
        shutil.copytree(known, folder / ".mypy_cache")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "before")
    for name in NAMES:
        assert "wrote" in run(folder, sys.executable, "tools/new_family", name)
    return folder


@full("document")
def test_only_new_files_and_two_rows_are_written(tree: Path) -> None:
    status = git(tree, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert set(status) == EXPECTED
    changed = [line for line in git(tree, "diff", "-U0").splitlines() if re.match(r"[+-][^+-]", line)]
    functions = "bells on shared centres, with separate heights for every edge"
    tensors = "`my_kan_heights` (3), `my_kan_centres` (1), `my_kan_width` (1)"
    assert len(changed) == 2 * len(NAMES)
    assert {f"+| MyKan | {functions} | - | A | - |", f"+| `{FAMILY}` | MyKan | {tensors} |"} < set(changed)


@full("document")
def test_the_golden_case_is_made_again_bit_for_bit(tree: Path) -> None:
    folder = tree / "tests" / "golden" / "checkpoints" / f"{FAMILY}-hello"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".npz"}
    run(tree, sys.executable, f"tests/golden/generators/make_{NAME}.py")
    assert {name: (folder / name).read_bytes() for name in before} == before


@full("document")
def test_the_tests_find_it_by_themselves(tree: Path) -> None:
    printed = run(tree, sys.executable, "-m", "pytest", "-v", *FINDING, "-k", f"{NAME} or {FAMILY}")
    for name in FINDING:
        assert re.search(rf"{Path(name).name}::\S*{NAME[:2]}[-_]{NAME[3:]}\S* PASSED", printed), name
    assert "skipped" not in printed


@full("document")
def test_it_keeps_the_house_rules(tree: Path) -> None:
    files = sorted(line[3:] for line in EXPECTED if line.endswith(".py"))
    run(tree, sys.executable, "-m", "ruff", "format", "--check", *files)
    run(tree, sys.executable, "-m", "ruff", "check", *files)
    git(tree, "add", "-A")  # the linter reads the files of git
    run(tree, sys.executable, "tools/prose.py", "docs/reference/supported-libraries.md", *files)
    run(tree, sys.executable, "-m", "mypy", *(path for path in files if path.startswith("kanexport/")))
    # Templates import and measure the same in each tree: only rules about names depend on it.
    run(tree, sys.executable, "-m", "pytest", "-q", "tests/test_code_rules.py", "-k", RULES)


@full("document")
def test_it_has_a_certificate_c_code_and_a_graph_for_the_kernel(tree: Path) -> None:
    model = f"tests/golden/checkpoints/{FAMILY}-hello/model.safetensors"
    run(tree, sys.executable, "-m", "kanserve", "export", model, "--repository", "m", "--name", "my", *EVERYTHING)
    manifest = json.loads((tree / "m" / "my" / "1" / "manifest.json").read_text())
    assert manifest["certificate"]["low"] == [-2.0, -2.0]
    assert {"model.onnx", "model.kernel.onnx"} <= {file["path"] for file in manifest["files"]}
    assert (tree / "c" / "my.c").is_file()


INVALID = ("", "MyKan", "my-kan", "_my", "../my", "class", "layer", "my kan", "m" * 31)
MESSAGES = dict.fromkeys(INVALID, "expected a new module's name") | {"fastkan": "exists already"}
MESSAGES["legendrekan"] = "legendrekan is read already"  # one of many in its reader's file


def test_other_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in MESSAGES.items():
        assert new_family.main([name]) == 2
        assert message in capsys.readouterr().err, name
