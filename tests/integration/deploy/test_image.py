"""Static checks of the recipe of the images. container-test.sh builds and runs the server image."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from kanserve.config import settings
from tests.support import programs
from tests.support.tiers import full

ROOT = Path(__file__).parents[3]
RECIPE = (ROOT / "Dockerfile").read_text()
SCRIPT = ROOT / "service" / "deploy" / "container-test.sh"
SERVERS, IMAGES = ("server", "server-cuda"), ("server", "server-cuda", "export")
BASES = {"${BASE_IMAGE}", "scratch", "runtime", "server-dependencies", "cuda-dependencies"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def stages() -> dict[str, str]:
    """The text of each stage by its name, after the text of the stage that it begins from; continued lines joined."""
    found: dict[str, str] = {}
    for start, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", RECIPE.replace("\\\n", " "), re.MULTILINE | re.DOTALL
    ):
        found[name] = found.get(start, "") + body
    return found


STAGES = stages()


def instruction(stage: str, name: str) -> str:
    """The last instruction of this name in an image."""
    return re.findall(rf"^{name} +(.+)$", STAGES[stage], re.MULTILINE)[-1]


def environment(stage: str) -> dict[str, str]:
    """The variables that an image sets."""
    lines = re.findall(r"^ENV +(.+)$", STAGES[stage], re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in line.split())


def test_the_server_is_the_default_of_three_images() -> None:
    assert set(IMAGES) < set(STAGES)
    assert list(STAGES)[-1] == "server"
    assert re.findall(r"^ARG BASE_IMAGE=(\S+)$", RECIPE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE)) == BASES


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_without_root_shell_and_telemetry_and_is_labelled(image: str) -> None:
    assert instruction(image, "USER") == "65532:65532"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(instruction(image, name)), list)
    assert environment(image)["ORT_DISABLE_TELEMETRY"] == "1"
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', STAGES[image]))
    assert set(labels) == {"title", "description", "version", "revision", "licenses", "url"}
    assert (labels["licenses"], labels["url"]) == (PROJECT["license"], PROJECT["urls"]["Repository"])
    assert (labels["version"], labels["revision"]) == ("${VERSION}", "${COMMIT}")
    assert f"ARG VERSION={PROJECT['version']}\nARG COMMIT=unknown\n" in STAGES[image]


@pytest.mark.parametrize("image", SERVERS)
def test_a_change_of_our_code_leaves_the_layer_of_the_dependencies(image: str) -> None:
    """Its stage reads only the locked requirements and the steps of the build."""
    copies = re.findall(r"^COPY --from=(\S+) (\S+) ", STAGES[image], re.MULTILINE)
    dependencies, own = copies[-2:]
    assert (dependencies[1], own[1]) == ("/opt/kanserve", "/own")
    read = re.findall(r"^COPY (\S+)", STAGES[dependencies[0]], re.MULTILINE)
    assert [path for path in read if not path.startswith("requirements/")] == ["service/deploy/image"]
    assert "FROM " + dependencies[0] + " AS " + own[0] in RECIPE


@pytest.mark.parametrize("image", SERVERS)
def test_a_server_has_the_client_as_its_health_check_and_is_not_insecure(image: str) -> None:
    check = instruction(image, "HEALTHCHECK")
    assert json.loads(check[check.index("[") :])[:2] == ["/opt/kanserve/bin/kanserve", "health"]
    names = {name for name in environment(image) if name.startswith("KANSERVE_")}
    assert names == {"KANSERVE_REPOSITORY", "KANSERVE_HOST", "KANSERVE_METRICS_HOST"}
    assert {name.removeprefix("KANSERVE_").lower() for name in names} <= set(settings.Settings.model_fields)


@full("package")
def test_the_linter_of_recipes_finds_nothing() -> None:
    done = subprocess.run(
        [programs.program("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_installs_is_locked_by_hash() -> None:
    for name in ("server.txt", "server-cuda.txt", "export.txt", "build.txt", "kernel.txt"):
        text = (ROOT / "requirements" / name).read_text()
        pins = re.findall(r"^([a-z0-9-]+)==\S+.*\\$", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)
        assert not re.search(r"https?://|torch", text)
        assert f"!requirements/{name}" in (ROOT / ".dockerignore").read_text()
    installs = re.findall(r"pip (?:--python \S+ )?install (.+)", RECIPE.replace("\\\n", " "))
    assert len(installs) == 8
    free = [line for line in installs if "--require-hashes" not in line and "--no-deps" not in line]
    assert len(free) == 1
    assert '"torch>=2.10"' in free[0]  # its CPU build is on another index, with other hashes


def test_the_lock_covers_the_server() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    sections = re.findall(r"^(?:serve|certificates|otel) = \[(.*?)\]$", project, re.MULTILINE | re.DOTALL)
    assert len(sections) == 3
    wanted = set(re.findall(r'"([a-z-]+)[>=\[]', "".join(sections))) | {"numpy", "grpcio", "protobuf", "rich"}
    for name, own in (("server", set()), ("server-cuda", {"onnxruntime"})):
        locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
        assert wanted - locked == {"kanserve-kernel"} | own  # the recipe builds the kernel from its sources
    assert "COPY kernel kernel" in RECIPE


@full("package")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_is_shell_and_says_how_it_is_used() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], timeout=60).returncode == 0
    done = subprocess.run([SCRIPT, "models"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "MODELS NAME ROWS" in done.stderr
