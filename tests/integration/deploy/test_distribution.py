"""Contents of the wheel and the sdist, and the wheel with only its base dependencies."""

import importlib.metadata
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.tiers import full

pytestmark = full("package")

ROOT = Path(__file__).parents[3]
PACKAGES = {"kanexport": ROOT / "kanexport", "kanserve": ROOT / "service" / "kanserve"}


def build(source: Path, out: Path, *targets: str) -> list[Path]:
    """Distributions that hatchling makes of a source tree, without a network."""
    kinds = [word for target in targets for word in ("--target", target)]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out), *kinds]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return sorted(out.iterdir())


def link_dependencies(target: Path, distribution: str, seen: set[str]) -> None:
    """Links to what a distribution without extras needs, out of this environment."""
    for line in importlib.metadata.requires(distribution) or []:
        need = Requirement(line)
        if need.name in seen or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(need.name)
        result = importlib.metadata.distribution(need.name)
        for top in {file.parts[0] for file in result.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (target / top).exists():
                (target / top).symlink_to(str(result.locate_file(top)))
        link_dependencies(target, need.name, seen)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this tree."""
    wheel, sdist = sorted(
        build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist"), key=lambda path: path.suffix != ".whl"
    )
    return sdist, wheel


@pytest.fixture(scope="module")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel, installed by pip, and its base dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-index", "--no-deps", str(built[1])], check=True, timeout=120)
    (packages,) = folder.glob("lib/python3*/site-packages")
    link_dependencies(packages, "kanserve", set())
    return folder / "bin"


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """In a folder and an environment that know nothing of the source tree."""
    return subprocess.run(command, cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)


def test_the_wheel_holds_the_two_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    here = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == here
    assert {"kanexport/py.typed", "kanserve/py.typed", "kanserve/pb/kan_pb2.py"} <= held


def test_the_sdist_makes_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        assert {Path(name).parts[1] for name in archive.getnames()} == {
            *("kanexport", "service", "proto"),
            *("pyproject.toml", "PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"),
        }
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (again,) = build(source, tmp_path / "again", "wheel")
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_the_client_works_with_the_base_alone_and_other_commands_name_their_extra(clean: Path) -> None:
    for command in (["--help"], ["infer", "--help"], ["edges", "--help"], ["models", "--help"], ["--version"]):
        done = run([clean / "kanserve", *command])
        assert (done.returncode, done.stderr) == (0, ""), command
    module = run([clean / "python", "-c", "import kanexport.shared.manifest as m; print(m.__file__)"])
    assert str(clean.parent) in module.stdout
    health = run([clean / "python", "-m", "kanserve", "health", "--url", "127.0.0.1:1"])
    assert health.returncode == 1
    assert "127.0.0.1:1" in health.stderr
    assert "Traceback" not in health.stderr
    for command in ("export", "serve"):  # each has an extra of its name
        done = run([clean / "kanserve", command, "models"])
        assert done.returncode == 1
        assert f"-m pip install -e '.[{command}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_what_the_image_keeps_of_kanexport_is_enough(clean: Path) -> None:
    """The build of the image removes the exporter; this does the same. Last of all, for it changes `clean`."""
    module = runpy.run_path(str(ROOT / "service" / "deploy" / "image" / "trim_environment.py"))
    (packages,) = clean.parent.glob("lib/python3*/site-packages")
    (rule,) = (rule for rule in module["PACKAGES"] if rule.pattern == "kanexport/*")
    assert module["trim"](packages, rule) > 0
    assert run([clean / "kanserve", "models", "--help"]).returncode == 0
    assert run([clean / "python", "-c", "import kanserve.cli.main, kanexport.shared.manifest"]).returncode == 0
    done = run([clean / "kanserve", "export", "model.pt"])
    assert done.returncode == 1
    assert "the server image does not contain it" in done.stderr
