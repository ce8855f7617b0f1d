"""Files of the server image: a server runs without the trimmed ones, and copies keep the links among folders."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kanserve.client.sync import Client
from tests.support import programs, toy_model
from tests.support.command_line import CLEAN
from tests.support.server_process import first_line
from tests.support.tiers import full

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "service" / "deploy" / "image"
SECONDS = 60
VALIDATION = """
import pathlib, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(pathlib.Path(sys.argv[1]).read_text()))
"""


def program(name: str) -> ModuleType:
    """A step of the image build, as a module."""
    spec = importlib.util.spec_from_file_location(name, BUILD / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trim_environment, runtime_root = program("trim_environment"), program("runtime_root")
bill_of_materials = program("bill_of_materials")


def link(source: str, target: str) -> None:
    """The same file under another name, or its copy on another file system."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the packages of requirements/server.txt, the kernel if it is installed, and kanserve."""
    folder = tmp_path_factory.mktemp("image") / "kanserve"
    venv.create(folder, symlinks=True)
    packages = trim_environment.site_packages(folder)
    lock = (ROOT / "requirements" / "server.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name in names | {"kanserve-kernel"}:
            for file in distribution.files or ():
                if file.parts[0] != ".." and not (packages / file).exists():
                    link(str(distribution.locate_file(file)), str(packages / file))
    for package in ("kanexport", "service/kanserve"):
        shutil.copytree(ROOT / package, packages / Path(package).name)
    return folder


@full("package")
def test_a_server_runs_without_the_trimmed_files(environment: Path, tmp_path: Path) -> None:
    packages = trim_environment.site_packages(environment)
    rules = [
        rule for rule in trim_environment.PACKAGES if rule.pattern.startswith(("onnx", "numpy/_core", "kanexport"))
    ]
    unmatched = [rule.pattern for rule in rules if not list(trim_environment.matches(packages, rule))]
    assert unmatched == ["onnxruntime/capi/libonnxruntime_providers_tensorrt.so"]  # in onnxruntime-gpu
    command = [sys.executable, "-P", BUILD / "trim_environment.py", environment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    before, after = map(float, re.findall(r"^ *(\d+\.\d+) MB  (?:before|after)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0
    assert before - after > 50
    assert not list(environment.rglob("libonnxruntime.so*"))
    assert sorted(path.name for path in (packages / "kanexport").iterdir()) == ["__init__.py", "shared"]

    toy_model.write(tmp_path / "models")
    log, python = tmp_path / "log", environment / "bin" / "python"
    flags = ("--grpc-port", "0", "--metrics-port", "0", "--json", "--traces")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [python, "-P", "-m", "kanserve", "serve", tmp_path / "models", *flags],
            env=CLEAN,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            address = json.loads(first_line(process, log))["grpc"]
            x = np.array([[0.5, -1.0, 2.0]], np.float32)
            with Client(address) as client:
                y = client.infer("toy", x).outputs["y"]
            np.testing.assert_allclose(y, toy_model.outputs(x), rtol=1e-5)
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, log.read_text()
    own = {line.split()[-1] for line in mapped.splitlines() if "site-packages" in line}
    assert all(path.startswith(str(packages)) for path in own)
    assert [path for path in own if "onnxruntime_pybind11_state" in path]
    modules = "cryptography.x509, rich.table, pydantic_settings, grpc_health.v1.health"
    assert (
        subprocess.run([python, "-P", "-c", f"import {modules}"], cwd="/", env=CLEAN, timeout=SECONDS).returncode == 0
    )


def test_nothing_outside_of_the_environment_is_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "tests").mkdir(parents=True)
    packages = tmp_path / "environment" / "lib" / "python3.13" / "site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "environment" / "pyvenv.cfg").touch()
    (packages / "numpy").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "f2py").mkdir()
    assert trim_environment.main([str(tmp_path / "environment")]) == 1
    assert trim_environment.main([str(tmp_path / "elsewhere")]) == 1
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["f2py", "tests"]


def test_a_copy_has_the_links_of_its_folders(tmp_path: Path) -> None:
    system, image = tmp_path / "system", tmp_path / "image"
    (system / "usr" / "lib").mkdir(parents=True)
    (system / "usr" / "lib" / "liba.so.1.2").write_bytes(b"library")
    (system / "usr" / "lib" / "liba.so.1").symlink_to("liba.so.1.2")
    (system / "lib").symlink_to("usr/lib")
    root = runtime_root.Root(image)
    root.add(system / "lib" / "liba.so.1")
    copied = image / system.relative_to("/")
    assert os.readlink(copied / "lib") == "usr/lib"
    assert (copied / "lib" / "liba.so.1").read_bytes() == b"library"
    assert {path.name for path in root.files} == {"liba.so.1.2"}


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed")
def test_the_libraries_of_a_program_are_those_of_its_process(tmp_path: Path) -> None:
    names = {path.name for path in runtime_root.needed([Path(sys.executable).resolve()])}
    assert any(name.startswith("libc.so") for name in names)
    (tmp_path / "text").write_text("no library")
    assert [runtime_root.is_elf(path) for path in (Path(sys.executable).resolve(), tmp_path / "text")] == [True, False]


@full("package")
def test_the_bill_of_materials_has_each_package_once(environment: Path, tmp_path: Path) -> None:
    status = tmp_path / "root" / "var" / "lib" / "dpkg" / "status.d"
    status.mkdir(parents=True)
    (status / "libc6").write_text(
        "Package: libc6\nStatus: install ok installed\nVersion: 2.41-12\nDescription: C\n library\n"
    )
    packages = trim_environment.site_packages(environment)
    (packages / "kanserve-0.2.0.dist-info").mkdir(exist_ok=True)
    (packages / "kanserve-0.2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: kanserve\nVersion: 0.2.0\nLicense-Expression: Apache-2.0\n"
    )
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for output in (first, second):
        assert bill_of_materials.main([str(environment), str(tmp_path / "root"), str(output)]) == 0
    assert first.read_bytes() == second.read_bytes()
    document = json.loads(first.read_text())
    urls = [component["purl"] for component in document["components"]]
    assert len(urls) == len(set(urls)) > 25
    assert {"pkg:deb/debian/libc6@2.41-12", "pkg:pypi/kanserve@0.2.0"} <= set(urls)
    assert document["metadata"]["component"]["version"] == "0.2.0"
    assert bill_of_materials.main([str(tmp_path), str(tmp_path / "root"), str(first)]) == 1
    validation = [programs.interpreter("cyclonedx"), "-c", VALIDATION, second]
    done = subprocess.run(validation, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stdout + done.stderr
