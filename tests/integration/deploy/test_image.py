"""Static checks of the container image's recipe. container-test.sh builds and runs the image."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kanserve.config import settings

ROOT = Path(__file__).parents[3]
RECIPE = (ROOT / "Dockerfile").read_text()
SCRIPT = ROOT / "service" / "deploy" / "container-test.sh"


def instruction(name: str) -> str:
    """The last instruction of this name, continued lines joined."""
    joined = RECIPE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.+)$", joined, re.MULTILINE)[-1]


def test_it_runs_without_root_and_without_a_shell() -> None:
    assert instruction("USER") == "65532:65532"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(instruction(name)), list)
    check = instruction("HEALTHCHECK")
    assert json.loads(check[check.index("[") :])[:2] == ["/opt/kanserve/bin/kanserve", "health"]


def test_its_environment_is_made_of_settings() -> None:
    names = re.findall(r"KANSERVE_([A-Z_]+)=", instruction("ENV"))
    assert names
    assert [name for name in names if name.lower() not in settings.Settings.model_fields] == []


def test_no_python_inside_reports_anything() -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in RECIPE.replace("\\\n", " ").partition("COPY --from=build")[2].split()


def test_what_it_installs_is_locked_by_hash() -> None:
    for name in ("server.txt", "build.txt", "kernel.txt"):
        text = (ROOT / "requirements" / name).read_text()
        pins = re.findall(r"^([a-z0-9-]+)==\S+.*\\$", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)
        assert not re.search(r"https?://|torch", text)
    installs = re.findall(r"pip install (.+)", RECIPE.replace("\\\n", " "))
    for line in installs:
        assert "--require-hashes" in line or "--no-deps" in line


def test_the_lock_covers_the_server() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    section = re.search(r"^serve = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert section is not None
    wanted = set(re.findall(r'"([a-z-]+)[>=\[]', section[1])) | {"numpy", "grpcio", "protobuf", "rich"}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "server.txt").read_text(), re.MULTILINE))
    assert sorted(wanted - locked) == ["kanserve-kernel"]  # the recipe builds it from its sources
    assert "COPY kernel kernel" in RECIPE


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_is_shell_and_says_how_it_is_used() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], timeout=60).returncode == 0
    done = subprocess.run([SCRIPT, "models"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "MODELS NAME ROWS" in done.stderr
