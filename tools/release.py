"""Release builder: wheels, sdist, Helm chart, image and documentation of one commit, tested outside the clone.

    make release                 all steps; the tested files are then in dist/
    make release ARGS=--check    only the checks of versions, changelog, work tree and tag

The program builds from `git archive HEAD`, so files that git does not track have no effect. It changes no file of the
clone except those in dist/, and it sets no tag: it prints the command that does.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import emulated  # noqa: E402 - of the clone
from tools.manifests import download  # noqa: E402 - of the clone

CHECKPOINT = "tests/golden/checkpoints/pykan-hello-adapted"  # 2 inputs, 1 output, 64 recorded rows
TOLERANCE = 1e-5  # of the largest recorded output
SECONDS_READY, SECONDS_STOP = 120, 90  # for a server on a busy machine
SLOWER = 5  # of an emulated machine
OUTPUT_LINES = 25  # of a failed command
CHART = "service/deploy/helm/kanserve"
SUMS = "SHA256SUMS"
REPOSITORY = "https://github.com/kanserve/kanserve"
SECTIONS = ("Highlights", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Renamed names")


class ReleaseError(Exception):
    """A reason not to release. `message` says what was found and expected, `advice` what to do."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class Release(NamedTuple):
    """The release under way: the clone, its version, and a folder for everything that the steps make."""

    root: Path
    version: str
    work: Path

    @property
    def source(self) -> Path:
        """The files of the commit, unpacked."""
        return self.work / "source"

    @property
    def built(self) -> Path:
        """The folder of the distributions."""
        return self.work / "built"

    @property
    def bin(self) -> Path:
        """The programs of the clean environment."""
        return self.work / "environment" / "bin"


# Checks of the clone


def read_version(root: Path) -> str:
    """The version of pyproject.toml. Raises ReleaseError if a file of the kernel or the chart has another one."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version = str(project["version"])
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise ReleaseError(f"pyproject.toml: version {version!r}, expected MAJOR.MINOR.PATCH", "correct the version")
    major, minor, *_ = version.split(".")
    pin = f"kanserve-kernel>={major}.{minor},<{major}.{int(minor) + 1}"
    pins = {
        extra: next(
            (need.partition(";")[0] for need in project["optional-dependencies"][extra] if "kernel" in need), ""
        )
        for extra in ("export", "serve")
    }
    kernel = tomllib.loads((root / "kernel" / "pyproject.toml").read_text())["project"]["version"]
    constant = re.search(r'^VERSION = "(.+)"$', (root / "kernel/kanserve_kernel/__init__.py").read_text(), re.MULTILINE)
    chart = dict(re.findall(r"^(version|appVersion): (.+)$", (root / CHART / "Chart.yaml").read_text(), re.MULTILINE))
    for place, value, expected in (
        ("kernel/pyproject.toml: version", kernel, version),
        ("kernel/kanserve_kernel/__init__.py: VERSION", constant[1] if constant else "none", version),
        *((f"{CHART}/Chart.yaml: {key}", chart.get(key, "none"), version) for key in ("version", "appVersion")),
        *((f"pyproject.toml: extra {extra}", found, pin) for extra, found in pins.items()),
    ):
        if value != expected:
            raise ReleaseError(f"{place} is {value!r}, expected {expected!r}", "write the same version in all of them")
    return version


def check_changelog(root: Path, version: str) -> None:
    """Raises ReleaseError unless CHANGELOG.md has an empty "Unreleased" and then a dated entry of the version."""
    text = (root / "CHANGELOG.md").read_text()
    entries = [(match[1], match[2], match.end()) for match in re.finditer(r"^## \[(.+?)\](?: - (.+))?$", text, re.M)]
    names = [name for name, _, _ in entries[:2]]
    if names != ["Unreleased", version]:
        advice = f'move the lines of "Unreleased" to a new heading "## [{version}] - YYYY-MM-DD"'
        raise ReleaseError(
            f'CHANGELOG.md: the first headings are {names}, expected "Unreleased" and {version!r}', advice
        )
    (_, _, begin), (_, date, end) = entries[:2]
    if text[begin:end].rpartition("\n## ")[0].strip():
        advice = f"move these lines to the entry of {version}, or raise the version"
        raise ReleaseError('CHANGELOG.md: "Unreleased" has lines, expected none at a release', advice)
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        late = datetime.date.fromisoformat(date or "") > today
    except ValueError:
        late = True
    if late:
        advice = f'write "## [{version}] - {today}"'
        raise ReleaseError(
            f"CHANGELOG.md: {version} has the date {date!r}, expected YYYY-MM-DD, {today} at most", advice
        )


def check_tree(root: Path) -> None:
    """Raises ReleaseError if git lists a changed or an untracked file."""
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        shown = ", ".join(line[3:] for line in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ReleaseError(
            f"the work tree has {len(changed)} changed or untracked files: {shown}{more}", "commit or remove them"
        )


def check_tag(root: Path, version: str) -> None:
    """Raises ReleaseError if the version's tag names another commit, or a version tag at HEAD another version."""
    tag, head = f"v{version}", git(root, "rev-parse", "HEAD").strip()
    if git(root, "tag", "--list", tag).strip():
        target = git(root, "rev-list", "-n", "1", tag).strip()
        if target != head:
            advice = "raise the version, or check out the commit of the tag"
            raise ReleaseError(f"tag {tag} names commit {target[:10]}, expected HEAD, {head[:10]}", advice)
    here = [name for name in git(root, "tag", "--points-at", "HEAD", "--list", "v[0-9]*").split() if name != tag]
    if here:
        raise ReleaseError(f"HEAD has the tag {here[0]}, expected {tag}", "correct the version or remove the tag")


def check(root: Path) -> str:
    """The version, after all checks of the clone."""
    version = read_version(root)
    check_changelog(root, version)
    check_tree(root)
    check_tag(root, version)
    return version


# Steps


def unpack(release: Release) -> str:
    """The files of HEAD in a folder outside the clone."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=release.root, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(release.source, filter="data")
    return git(release.root, "rev-parse", "--short=10", "HEAD").strip()


def build(release: Release) -> str:
    """The wheel and the sdist. The wheel of the unpacked sdist must have the same bytes."""
    hatch(release.source, release.built, "wheel", "sdist")
    wheel, sdist = distribution(release, "kanserve-*.whl"), distribution(release, "kanserve-*.tar.gz")
    with tarfile.open(sdist) as files:
        files.extractall(release.work / "sdist", filter="data")
    (unpacked,) = (release.work / "sdist").iterdir()
    hatch(unpacked, release.work / "again", "wheel")
    if (release.work / "again" / wheel.name).read_bytes() != wheel.read_bytes():
        advice = "compare both wheels; tool.hatch.build.targets.sdist in pyproject.toml may lack a file"
        raise ReleaseError("the sdist builds a wheel with other bytes than the clone does", advice)
    return f"{wheel.name}, {sdist.name}"


def build_kernel(release: Release) -> str:
    """The wheels of the custom operator, one for each architecture."""
    command = [
        sys.executable,
        str(release.source / "kernel" / "install.py"),
        str(release.work / "zig"),
        str(release.built),
    ]
    run(command, release.work, "check the network; the build downloads the compiler ziglang")
    return ", ".join(sorted(path.name for path in release.built.glob("kanserve_kernel-*.whl")))


def package_chart(release: Release) -> str:
    """The Helm chart as one file, whose name is not nearly that of the sdist."""
    try:
        helm = download.program("helm")
    except download.Unavailable as error:
        raise ReleaseError(str(error), "install helm, or check the network") from error
    command = [str(helm), "package", CHART, "--destination", str(release.built)]
    run(command, release.source, "run `make test ARGS=tests/integration/deploy`")
    packaged = distribution(release, "kanserve-*.tgz")
    return packaged.rename(packaged.with_name(f"kanserve-chart-{release.version}.tgz")).name


def install(release: Release) -> str:
    """A new environment with both wheels, the extras export and serve, and the locked versions of the rest."""
    locked = re.findall(
        r"^([\w.-]+==[^\s\\]+(?: *;[^\\\n]+)?)", (release.source / "requirements/dev.txt").read_text(), re.M
    )
    constraints = release.work / "constraints.txt"
    constraints.write_text("\n".join(locked) + "\n")
    run([sys.executable, "-m", "venv", str(release.bin.parent)], release.work, "install python3-venv")
    wheel, kernel = (
        distribution(release, "kanserve-*.whl"),
        distribution(release, f"kanserve_kernel-*_{platform.machine()}.whl"),
    )
    needs = [f"kanserve[export,serve] @ {wheel.as_uri()}", f"kanserve-kernel @ {kernel.as_uri()}"]
    python = str(release.bin / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    advice = "check the network and the package index; after a change of pyproject.toml run `make lock`"
    run([*pip, "install", "--quiet", "--only-binary", ":all:", "-c", str(constraints), *needs], release.work, advice)
    run([*pip, "check"], release.work, "correct the dependencies in pyproject.toml")
    printed = run([str(release.bin / "kanserve"), "--version"], release.work, "run `make test`").strip()
    advice = "correct service/kanserve/version.py, and its line in .gitattributes"
    if printed != f"kanserve {release.version}":
        raise ReleaseError(f"kanserve --version prints {printed!r}, expected 'kanserve {release.version}'", advice)
    program = "from kanserve.version import commit; print(commit())"
    commit, head = (
        run([python, "-P", "-c", program], release.work, advice).strip(),
        git(release.root, "rev-parse", "HEAD"),
    )
    if commit != head.strip():
        raise ReleaseError(f"the installed package names the commit {commit}, expected {head.strip()}", advice)
    return f"{printed}, commit {commit[:10]}"


def export(release: Release) -> str:
    """One golden checkpoint, exported with the custom operator by the installed program."""
    checkpoint = release.source / CHECKPOINT / "model"
    command = [release.bin / "kanserve", "export", checkpoint, "--repository", "models", "--name", "tiny"]
    run(list(map(str, command)), release.work, "run `make test ARGS=tests/kanexport` and tests/kernel")
    written = {path.name for path in (release.work / "models" / "tiny" / "1").iterdir()}
    missing = {"model.onnx", "model.kernel.onnx", "manifest.json"} - written
    if missing:
        raise ReleaseError(f"the export wrote no {', '.join(sorted(missing))}", "run `make test ARGS=tests/kernel`")
    return f"{len(written)} files"


def serve(release: Release) -> str:
    """A server of the export, one inference through the installed client, and a graceful shutdown."""
    return served(release, [str(release.bin / "kanserve")])


def serve_emulated(release: Release) -> str:
    """The same with the server and the custom operator for aarch64, on an emulated machine, if there can be one."""
    if why := emulated.reason():
        return f"not run: {why}"
    machine = emulated.Machine(release.work / "aarch64")
    wheels = [distribution(release, name) for name in ("kanserve-*.whl", "kanserve_kernel-*_aarch64.whl")]
    try:
        machine.create(release.source / "requirements" / "server.txt", wheels)
    except emulated.Failed as fault:
        raise ReleaseError(str(fault), "check the network, and the mirror in the apt sources") from fault
    return served(release, [str(machine.python), "-m", "kanserve"], SLOWER)


def served(release: Release, kanserve: Sequence[str], slower: int = 1) -> str:
    """Start a server of the export with a command, infer, and shut it down. `slower`: factor of the time limits."""
    program, ports = str(release.bin / "kanserve"), free_ports(2)
    log = release.work / "serve.log"
    options = ["--grpc-port", str(ports[0]), "--metrics-port", str(ports[1])]
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            [*kanserve, "serve", "models", *options], cwd=release.work, env=environment(), stderr=stderr
        )
    try:
        error = infer(release, program, f"127.0.0.1:{ports[0]}", server, slower)
        server.send_signal(signal.SIGTERM)
        status = server.wait(SECONDS_STOP * slower)
    except (ReleaseError, subprocess.TimeoutExpired) as fault:
        advice = f"read the log of the server:\n{last_lines(log.read_text(errors='replace'))}"
        raise ReleaseError(str(fault), advice) from fault
    finally:
        server.kill()
        server.wait()
    if status != 0:
        raise ReleaseError(f"the server exits with {status} after SIGTERM, expected 0", "run `make test`")
    if '"kernel": true' not in log.read_text(errors="replace"):
        raise ReleaseError("the server does not use the custom operator", f"read its log:\n{log.read_text()[-4000:]}")
    return f"largest error {error:.1e}, with the custom operator"


def infer(release: Release, program: str, address: str, server: subprocess.Popen[bytes], slower: int) -> float:
    """The largest error of the served outputs, relative to the largest output that the checkpoint's library gave."""
    deadline = time.monotonic() + SECONDS_READY * slower
    while subprocess.run(
        [program, "health", "--url", address], cwd=release.work, env=environment(), capture_output=True, check=False
    ).returncode:
        if (status := server.poll()) is not None:
            raise ReleaseError(f"the server exits with {status} before it is healthy", "run `kanserve serve` by hand")
        if time.monotonic() > deadline:
            raise ReleaseError(
                f"the server is not healthy within {SECONDS_READY * slower} s", "run `kanserve serve` by hand"
            )
        time.sleep(0.5)
    rows = release.source / CHECKPOINT / "reference.npz"
    arguments = ["infer", "tiny", "--input", str(rows), "--array", "x", "--output", "outputs.npy", "--url", address]
    run([program, *arguments], release.work, "run `make test ARGS=tests/cli`")
    outputs, expected = np.load(release.work / "outputs.npy"), np.load(rows)["y64"]
    error = (
        float(np.abs(outputs - expected).max() / np.abs(expected).max()) if outputs.shape == expected.shape else np.inf
    )
    if not error <= TOLERANCE:
        advice = "run `make test ARGS=tests/integration`"
        raise ReleaseError(f"the served outputs have a relative error of {error:.1e}, expected {TOLERANCE:.0e}", advice)
    return error


def uninstall(release: Release) -> str:
    """The environment without both packages: no program, and no module that Python can import."""
    python = str(release.bin / "python")
    advice = "correct tool.hatch.build in pyproject.toml"
    run([python, "-m", "pip", "uninstall", "--yes", "--quiet", "kanserve", "kanserve-kernel"], release.work, advice)
    find = (
        "import importlib.util as u; print([m for m in ('kanserve', 'kanexport', 'kanserve_kernel') if u.find_spec(m)])"
    )
    left = run([python, "-P", "-c", find], release.work, advice).strip()
    if left != "[]" or (release.bin / "kanserve").exists():
        raise ReleaseError(f"uninstalled packages leave {left} or the program kanserve", advice)
    return "nothing is left"


def build_image(release: Release) -> str:
    """The server image as an OCI archive, and its bill of materials, after the container test, if podman is there."""
    if shutil.which("podman") is None:
        return "not run: podman is not installed"
    name = f"kanserve-{release.version}-image-{platform.machine()}"
    archive, bill = (release.built / f"{name}.{suffix}" for suffix in ("oci.tar", "cdx.json"))
    variables = {"KANSERVE": str(release.bin / "kanserve"), "ARCHIVE": str(archive), "SBOM": str(bill)}
    variables["COMMIT"] = git(release.root, "rev-parse", "HEAD").strip()
    run(["bash", "service/deploy/container-test.sh"], release.source, "run `make container`", variables)
    return f"{archive.name}, {archive.stat().st_size / 1e6:.0f} MB"


def build_docs(release: Release) -> str:
    """The documentation site as one file, after the check of its links."""
    run(["make", "docs", f"PYTHON={sys.executable}"], release.source, "run `make docs`")
    target = release.built / f"kanserve-{release.version}-docs.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        archive.add(release.source / "site", f"kanserve-{release.version}-docs")
    return target.name


def keep(release: Release) -> str:
    """The tested distributions and their provenance in dist/ of the clone, with hashes for `sha256sum --check`. If
    MINISIGN_KEY names a secret key, minisign signs the hashes."""
    statement = provenance(release, git(release.root, "rev-parse", "HEAD").strip())
    (release.built / f"kanserve-{release.version}-provenance.json").write_text(json.dumps(statement, indent=1) + "\n")
    target, built = release.root / "dist", sorted(release.built.iterdir())
    target.mkdir(exist_ok=True)
    for path in built:
        shutil.copyfile(path, target / path.name)
    (target / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in built))
    if not (key := os.environ.get("MINISIGN_KEY")):
        return f"{len(built)} files and {SUMS}, unsigned"
    advice = "install minisign, and set MINISIGN_KEY to the path of a secret key of `minisign -G`"
    try:
        done = subprocess.run(
            ["minisign", "-S", "-s", key, "-m", str(target / SUMS)], check=False
        )  # asks for a password
    except FileNotFoundError:
        raise ReleaseError("minisign is not installed", advice) from None
    if done.returncode:
        raise ReleaseError(f"minisign exits with {done.returncode}, expected 0", advice)
    return f"{len(built)} files, {SUMS} and its signature"


def provenance(release: Release, commit: str) -> dict[str, Any]:
    """Origin of the distributions: the source commit, this program as the builder, and the SHA-256 of each file.

    The form is a statement of in-toto with the predicate of SLSA 1.0. The signature of SHA256SUMS covers it.
    """
    source = f"git+{REPOSITORY}@refs/tags/v{release.version}"
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": path.name, "digest": {"sha256": sha256(path)}} for path in sorted(release.built.iterdir())
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{REPOSITORY}/blob/{commit}/tools/release.py",
                "externalParameters": {"source": source},
                "resolvedDependencies": [{"uri": source, "digest": {"gitCommit": commit}}],
            },
            "runDetails": {"builder": {"id": f"{REPOSITORY}/blob/{commit}/Makefile#release"}},
        },
    }


STEPS: tuple[tuple[str, Callable[[Release], str]], ...] = (
    ("unpack the commit", unpack),
    ("build wheel and sdist", build),
    ("build the kernel wheel", build_kernel),
    ("package the Helm chart", package_chart),
    ("install in a clean environment", install),
    ("export a checkpoint", export),
    ("serve it and infer", serve),
    ("serve it on an emulated aarch64 machine", serve_emulated),
    ("build the server image", build_image),
    ("build the documentation", build_docs),
    ("uninstall", uninstall),
    ("copy the distributions to dist/", keep),
)


# Helpers


def git(root: Path, *arguments: str) -> str:
    """The output of a git command. Raises ReleaseError if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        advice = "run the release in a git clone with at least one commit"
        raise ReleaseError(f"git {arguments[0]} failed: {done.stderr.strip()}", advice)
    return done.stdout


def environment() -> dict[str, str]:
    """The variables for programs of the clean environment: none that points Python or kanserve at other files."""
    dropped = ("PYTHON", "VIRTUAL_ENV", "KANSERVE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def run(command: Sequence[str], folder: Path, advice: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """The stdout of a command. Raises ReleaseError with the end of its output if it fails."""
    variables = environment() | dict(variables)
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join([Path(command[0]).name, *command[1:]])
        output = last_lines(done.stdout + done.stderr)
        raise ReleaseError(f"`{shown}` exits with {done.returncode}, expected 0. Its output:\n{output}", advice)
    return done.stdout


def last_lines(text: str) -> str:
    """The end of an output, indented."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-OUTPUT_LINES:])


def hatch(project: Path, target: Path, *kinds: str) -> None:
    """Distributions of a project, built by hatchling of this environment without a network."""
    options = [word for kind in kinds for word in ("--target", kind)]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *options]
    run(command, project, "run `make setup`; the kernel wheel needs g++ and onnxruntime's C++ header (ORT_INCLUDE)")


def distribution(release: Release, pattern: str) -> Path:
    """The one built file of a pattern. Raises ReleaseError if its name has another version."""
    (path,) = release.built.glob(pattern)
    if path.name.split("-")[1].removesuffix(".tar.gz").removesuffix(".tgz") != release.version:
        raise ReleaseError(
            f"{path.name} is not of version {release.version}", "write the same version in both projects"
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that no program uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def closing(release: Release) -> str:
    """The distributions with their hashes, and the commands that set and publish the tag."""
    hashes = "".join(f"  dist/{path.name}\n    sha256 {sha256(path)}\n" for path in sorted(release.built.iterdir()))
    tag = f"v{release.version}"
    known = git(release.root, "tag", "--list", tag).strip()
    create = "" if known else f'  git tag --annotate {tag} --message "kanserve {release.version}"\n'
    ready = f"kanserve {release.version} is ready to release:\n{hashes}"
    return f"\n{ready}\nNow set the tag and push it:\n{create}  git push origin {tag}"


def perform(release: Release) -> None:
    """All steps, with one line each. Raises ReleaseError at the first that fails."""
    for number, (title, step) in enumerate(STEPS, 1):
        print(f"[{number}/{len(STEPS)}] {title} ...", end=" ", flush=True)
        began = time.monotonic()
        detail = step(release)
        print(f"{time.monotonic() - began:.1f} s: {detail}", flush=True)
    print(closing(release))


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 if a check or a step fails. The reason and the advice go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check the clone and build nothing")
    chosen = parser.parse_args(arguments)
    try:
        version = check(ROOT)
        print(f"version {version}: the projects, CHANGELOG.md, the tag and the work tree agree", flush=True)
        if not chosen.check:
            with tempfile.TemporaryDirectory(prefix="kanserve-release-") as work:
                perform(Release(ROOT, version, Path(work)))
    except ReleaseError as error:
        print(f"\nrelease: {error}\nhelp: {error.advice}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
