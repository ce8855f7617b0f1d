"""Installs torch where that is cheap: `python requirements/torch_build.py [0|1]`, run by `make setup`.

Torch is for exporting modules, the tests' oracle and the benchmarks. A CPU build takes
about 1 GB; the CUDA build, all that PyPI has for most Linux machines, about 5 GB. Which
one pip would take is told by the metadata of one wheel, without a download. So:

    (nothing)  a CPU build is installed; a CUDA build is left out, with a line that says so
    1          whatever build there is, and an error if there is none
    0          none

What was decided is kept in the environment (`.torch`), so that asking again takes no time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip")
# What torch's CUDA builds ask for. A CPU build asks for none of it.
CUDA = ("nvidia-", "cuda-", "pytorch-triton")
SECONDS = 120
HOW = "`make setup TORCH=1` installs it"


def main(wish: str) -> int:
    """Decide, install, and print the result. The exit code is 0 unless torch was requested by name and does not
    install."""
    stamp = Path(sys.prefix, ".torch")
    if wish == "0" or (stamp.exists() and (wish != "1" or stamp.read_text() == "installed")):
        return 0
    build = "asked for" if wish == "1" else what_pip_would_take()
    if build == "cuda":
        print(f"== leaving out torch: only its CUDA build, about 5 GB, is to be had here; {HOW} ==")
    elif build == "none":
        print(f"== leaving out torch: no build of it is to be had here; {HOW} ==")
    else:
        print(f"== installing torch ({build}), for exporting modules; TORCH=0 leaves it out ==", flush=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-build-isolation"]
        done = subprocess.run([*PIP, "install", *options, "-e", f"{ROOT}[torch,layers]"])
        if done.returncode:
            print("== torch does not install here; what needs it is skipped ==", file=sys.stderr)
            return int(wish == "1")
        build = "installed"
    stamp.write_text(build if build == "installed" else "left out")
    return 0


def what_pip_would_take() -> str:
    """'cpu', 'cuda' or 'none': the build that pip would install for the requirement in pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = next(line for line in extras["torch"] if Requirement(line).name == "torch")
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--only-binary", ":all:", "--report", "-"]
    try:
        done = subprocess.run([*PIP, "install", *options, wanted], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "none"
    return build_of(json.loads(done.stdout)) if done.returncode == 0 else "none"


def build_of(report: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> str:
    """'cpu' or 'cuda': the build in pip's report on torch, by its requirements on this machine (or `environment`)."""
    (torch,) = (item["metadata"] for item in report["install"])
    requested = [Requirement(line) for line in torch.get("requires_dist", [])]
    here = {"extra": "", **(environment or {})}
    needed = [need.name for need in requested if need.marker is None or need.marker.evaluate(here)]
    return "cuda" if any(name.startswith(CUDA) for name in needed) else "cpu"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
