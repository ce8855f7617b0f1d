"""Tests of the deployment for `make stack-test`: image, compose, monitoring, KServe, storage, cluster, Ray, chart.
Tests of models and tables in stores, and of engines that score tables, for `make data-test`.

    python tools/stack_test.py [PART...]

The program runs each part, and prints a table: passed or failed, its tests, seconds, and the reasons of skipped tests.
A part whose program is absent is `absent`, which is not a failure. A part with additional packages has them in the
environment `.venv-PART`, which also sees the packages of this interpreter. The exit code is 1 if a part failed.
"""

from __future__ import annotations

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
# Clients of the stores in docs/guides/models, 250 MB installed.
SOURCES = (
    "awscli==1.46.3",
    "boto3==1.44.8",
    "huggingface-hub==2.4.0",
    "mlflow-skinny==3.17.2",
    "sqlalchemy>=2,<3",
    "alembic>=1.13,<2",
)


class Part(NamedTuple):
    """One part: a command, or test files, the programs without which it is absent, and additional packages."""

    command: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """A row of the table."""

    part: str
    state: str
    tests: str
    seconds: float
    notes: tuple[str, ...] = ()


PARTS = {
    "image": Part(command=("bash", "service/deploy/container-test.sh"), needs=("podman",)),
    "image-recipe": Part(tests=(f"{TESTS}/test_image.py", f"{TESTS}/test_image_contents.py")),
    "compose-file": Part(tests=(f"{TESTS}/test_compose.py",)),
    "compose-stack": Part(tests=(f"{TESTS}/test_compose_stack.py",), needs=MONITORS),
    "compose-containers": Part(
        command=("bash", "service/deploy/compose-test.sh", "localhost/kanserve:container-test"),
        needs=("podman", "docker-compose", "nft", "curl", "busybox", *MONITORS),
    ),
    "monitoring": Part(tests=(f"{TESTS}/test_monitoring.py",), needs=("promtool",)),
    "kserve": Part(tests=(f"{TESTS}/test_kserve.py", f"{TESTS}/test_kserve_gateway.py")),
    "cluster": Part(command=(sys.executable, "-m", "tools.cluster")),
    "cluster-wrong": Part(command=(sys.executable, "-m", "tools.cluster", "--wrong-charts")),
    "ray": Part(
        tests=(f"{TESTS}/test_ray.py", f"{TESTS}/test_engines.py", "tests/kanserve/ray"),
        packages=("ray[serve]==2.60.0",),
    ),
    "engines": Part(tests=(f"{TESTS}/test_engines.py",), packages=("duckdb==2.0.1", "polars==2.1.0", "pyspark==4.3.0")),
    "kserve-storage": Part(tests=(f"{TESTS}/test_kserve_storage.py",)),
    "stores": Part(tests=(f"{TESTS}/test_score_stores.py",)),
    "model-sources": Part(
        tests=tuple(f"{TESTS}/test_source_{name}.py" for name in ("s3", "registry", "hugging_face", "mlflow")),
        packages=SOURCES,
    ),
    "chart": Part(tests=tuple(f"{TESTS}/test_helm{name}.py" for name in ("", "_probes", "_policies"))),
}
# Parts about tables and models in stores, which `make data-test` names.
DATA = ("stores", "model-sources", "engines")


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are named, or all except for DATA. Returns 0, 1 if one failed, or 2 for an unknown name."""
    if unknown := [name for name in arguments if name not in PARTS]:
        print(f"no part {', '.join(unknown)}, expected: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    rows = []
    for name in arguments or [name for name in PARTS if name not in DATA]:
        print(f"== {name}", flush=True)
        rows.append(run(name, PARTS[name]))
    print(table(rows))
    return int(any(row.state == "failed" for row in rows))


def run(name: str, part: Part) -> Outcome:
    """Run one part."""
    absent = tuple(f"{program} is not installed" for program in part.needs if shutil.which(program) is None)
    if absent:
        return Outcome(name, "absent", "-", 0.0, absent)
    begin, python = time.monotonic(), sys.executable
    if part.packages:
        try:
            python = interpreter(ROOT / f".venv-{name}", part.packages)
        except subprocess.CalledProcessError as error:
            return Outcome(name, "absent", "-", time.monotonic() - begin, (f"pip could not install it: {error}",))
    if part.command:
        done = subprocess.run(part.command, cwd=ROOT)
        return Outcome(name, "failed" if done.returncode else "passed", "-", time.monotonic() - begin)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", f"--junitxml={report}", *part.tests]
        code = subprocess.run(command, cwd=ROOT).returncode
        count, notes = counted(report) if report.is_file() else ("-", ())
    return Outcome(name, "failed" if code else "passed", count, time.monotonic() - begin, notes)


def interpreter(folder: Path, packages: Sequence[str]) -> str:
    """The interpreter of an environment with these packages and those of this interpreter. The environment is made
    once. Raises CalledProcessError if pip fails."""
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.is_file() and ready.read_text() == "\n".join(packages):
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    own.joinpath("zz_beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    ready.write_text("\n".join(packages))
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
