"""Tests of the deployment for `make stack-test`: image, compose, monitoring, KServe, storage, cluster, Ray, chart.
Tests of models and tables in stores, and of engines that score tables, for `make data-test`. Tests of the clients in
other languages, for `make clients-test`.

    python tools/stack_test.py [PART...]

The program first looks for the programs that the parts need. As root on Debian it installs those that are absent, with
apt-get; otherwise it prints the command that installs them. Then it runs each part, and prints a table: passed or
failed, its tests, seconds, and the reasons of skipped tests. A part whose program is absent is `absent`, which is not a
failure. A part with additional packages has them in the environment `.venv-PART`, which also sees the packages of this
interpreter. The exit code is 1 if a part failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = "tests/integration/deploy"
MONITORS = ("prometheus", "prometheus-alertmanager")
# podman with its helpers: a runtime, and the network of containers.
PODMAN = ("podman", "conmon", "runc", "netavark", "aardvark-dns", "pasta", "newuidmap")
# Folders of Debian's packages for Maven and Go.
MAVEN, GO_SOURCES = "/usr/share/maven-repo", "/usr/share/gocode/src"
# The package of Debian for each program or folder, where its name differs.
DEBIAN = {
    "podman": "podman golang-github-containers-common",
    "pasta": "passt",
    "newuidmap": "uidmap",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "nft": "nftables",
    "busybox": "busybox-static",
    "java": "openjdk-21-jre-headless",
    "javac": "openjdk-21-jdk-headless",
    "mvn": "maven",
    "protoc": "protobuf-compiler",
    "grpc_java_plugin": "protobuf-compiler-grpc-java-plugin",
    "go": "golang-go",
    "node": "nodejs",
    f"{GO_SOURCES}/google.golang.org/grpc": "golang-google-grpc-dev golang-google-protobuf-dev",
    f"{MAVEN}/io/grpc/grpc-netty": "libgrpc-java",
    f"{MAVEN}/io/netty/netty-tcnative": "libnetty-tcnative-java libnetty-tcnative-jni",
    f"{MAVEN}/com/google/api/grpc/proto-google-common-protos": "libgoogle-common-protos-java",
    f"{MAVEN}/org/apache/geronimo/specs/geronimo-annotation_1.3_spec": "libgeronimo-annotation-1.3-spec-java",
    f"{MAVEN}/org/apache/maven/plugins/maven-compiler-plugin": "libmaven-compiler-plugin-java",
    f"{MAVEN}/org/apache/maven/plugins/maven-resources-plugin": "libmaven-resources-plugin-java",
    f"{MAVEN}/org/codehaus/mojo/exec-maven-plugin": "libexec-maven-plugin-java",
    f"{MAVEN}/org/codehaus/mojo/build-helper-maven-plugin": "libbuild-helper-maven-plugin-java",
    f"{MAVEN}/org/junit/junit-bom": "junit5",
}
# Folders of programs that may be absent from PATH: those of root, and Debian's for helpers of podman.
FOLDERS = ("/usr/sbin", "/sbin", "/usr/lib/podman")


class Part(NamedTuple):
    """One part: a command, or test files.

    needs   the programs without which the part is absent
    uses    the programs and folders without which tests of the part are skipped, or fail
    locked  whether `requirements/PART.txt` has additional packages
    whole   whether the part fails if a test is skipped
    """

    command: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    locked: bool = False
    whole: bool = False


class Outcome(NamedTuple):
    """A row of the table."""

    part: str
    state: str
    tests: str
    seconds: float
    notes: tuple[str, ...] = ()


# Programs and folders for the client in each language. Debian has no package of the .NET SDK.
CLIENTS = {
    "Java": ("javac", "mvn", "protoc", "grpc_java_plugin", *(name for name in DEBIAN if name.startswith(MAVEN))),
    "Go": ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc", f"{GO_SOURCES}/google.golang.org/grpc"),
    "JavaScript": ("node", "npm"),
}
PARTS = {
    "image": Part(
        command=("bash", "service/deploy/container-test.sh"), needs=("podman",), uses=(*PODMAN, "debootstrap")
    ),
    "image-recipe": Part(tests=(f"{TESTS}/test_image.py", f"{TESTS}/test_image_contents.py")),
    "compose-file": Part(tests=(f"{TESTS}/test_compose.py",), uses=("docker-compose", "promtool", "amtool")),
    "compose-stack": Part(tests=(f"{TESTS}/test_compose_stack.py",), needs=MONITORS),
    "compose-containers": Part(
        command=("bash", "service/deploy/compose-test.sh", "localhost/kanserve:container-test"),
        needs=("podman", "docker-compose", "nft", "curl", "busybox", *MONITORS),
        uses=PODMAN,
    ),
    "monitoring": Part(tests=(f"{TESTS}/test_monitoring.py",), needs=("promtool",)),
    "kserve": Part(tests=(f"{TESTS}/test_kserve.py",)),
    "cluster": Part(command=(sys.executable, "-m", "tools.cluster")),
    "cluster-wrong": Part(command=(sys.executable, "-m", "tools.cluster", "--wrong-charts")),
    "ray": Part(
        tests=(f"{TESTS}/test_ray.py", f"{TESTS}/test_engines.py", "tests/kanserve/contrib/ray"),
        locked=True,
    ),
    "engines": Part(tests=(f"{TESTS}/test_engines.py",), uses=("java",), locked=True),
    "kserve-storage": Part(tests=(f"{TESTS}/test_kserve_storage.py",)),
    "stores": Part(tests=(f"{TESTS}/test_score_stores.py",)),
    "model-sources": Part(
        tests=tuple(f"{TESTS}/test_source_{name}.py" for name in ("s3", "registry", "hugging_face", "mlflow")),
        uses=("oras", "docker-registry", "podman", "curl"),
        locked=True,
    ),
    "clients": Part(
        tests=("tests/integration/clients",),
        uses=(*(name for names in CLIENTS.values() for name in names),),
        whole=True,
    ),
    "chart": Part(tests=tuple(f"{TESTS}/test_helm{name}.py" for name in ("", "_probes", "_policies"))),
}
# Parts that `make data-test` and `make clients-test` name.
NAMED = ("stores", "model-sources", "engines", "clients")


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are named, or all except for NAMED. Returns 0, 1 if one failed, or 2 for an unknown name."""
    if unknown := [name for name in arguments if name not in PARTS]:
        print(f"no part {', '.join(unknown)}, expected: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    names = arguments or [name for name in PARTS if name not in NAMED]
    os.environ["PATH"] = os.pathsep.join((os.environ["PATH"], *FOLDERS))
    provide([PARTS[name] for name in names], root=os.geteuid() == 0)
    rows = []
    for name in names:
        print(f"== {name}", flush=True)
        rows.append(run(name, PARTS[name]))
    print(table(rows))
    return int(any(row.state == "failed" for row in rows))


def provide(parts: Sequence[Part], *, root: bool) -> None:
    """Install the absent programs of these parts, as `root` on Debian. Otherwise print the command that does it."""
    wanted = dict.fromkeys(program for part in parts for program in (*part.needs, *part.uses))
    absent = [program for program in wanted if not present(program)]
    if not absent:
        return
    packages = list(dict.fromkeys(" ".join(DEBIAN.get(program, program) for program in absent).split()))
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if not root or shutil.which("apt-get") is None:
        print(f"not installed: {', '.join(absent)}; parts and tests that need them do not run", flush=True)
        print(f"on Debian, root installs them: {' '.join(install)}", flush=True)
        return
    print(f"== installing {', '.join(packages)}, for {', '.join(absent)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment)  # with an old list, some packages may still be found
    if subprocess.run(install, env=environment, stdout=subprocess.DEVNULL).returncode:
        print(f"apt-get failed; parts and tests that need {', '.join(absent)} may not run", flush=True)


def present(name: str) -> bool:
    """Whether there is a program of this name, or a folder."""
    return shutil.which(name) is not None or (name.startswith("/") and Path(name).is_dir())


def run(name: str, part: Part) -> Outcome:
    """Run one part."""
    absent = tuple(
        f"{program} is not installed (Debian: apt-get install {DEBIAN.get(program, program)})"
        for program in part.needs
        if shutil.which(program) is None
    )
    if absent:
        return Outcome(name, "absent", "-", 0.0, absent)
    begin, python = time.monotonic(), sys.executable
    if part.locked:
        try:
            python = interpreter(ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.txt")
        except subprocess.CalledProcessError as error:
            return Outcome(name, "absent", "-", time.monotonic() - begin, (f"pip could not install it: {error}",))
    if part.command:
        done = subprocess.run(part.command, cwd=ROOT)
        return Outcome(name, "failed" if done.returncode else "passed", "-", time.monotonic() - begin)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", f"--junitxml={report}", *part.tests]
        command += ["--no-skip", ""] if part.whole else []
        code = subprocess.run(command, cwd=ROOT).returncode
        count, notes = counted(report) if report.is_file() else ("-", ())
    return Outcome(name, "failed" if code else "passed", count, time.monotonic() - begin, notes)


def interpreter(folder: Path, requirements: Path) -> str:
    """The interpreter of an environment with locked packages, and with those of this interpreter. The environment is
    made again if the locked packages change. Raises CalledProcessError if pip fails."""
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.is_file() and ready.read_text() == requirements.read_text():
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    own.joinpath("zz_beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", str(requirements)], check=True)
    ready.write_text(requirements.read_text())
    return str(python)


def counted(report: Path) -> tuple[str, tuple[str, ...]]:
    """Number of tests that ran of all tests, and the reasons of the others, from a report of pytest."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skips = [skip.get("message", "").removeprefix("Skipped: ") for case in cases for skip in case.iter("skipped")]
    notes = tuple(f"{count} skipped: {reason}" for reason, count in sorted(Counter(skips).items()))
    return f"{len(cases) - len(skips)} of {len(cases)}", notes


def table(rows: Sequence[Outcome]) -> str:
    """The rows as text, with notes below each."""
    lines = ["", f"{'part':<20}{'result':<9}{'tests':<12}{'seconds':>7}"]
    for row in rows:
        lines.append(f"{row.part:<20}{row.state:<9}{row.tests:<12}{row.seconds:>7.0f}")
        lines += [f"    {note}" for note in row.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
