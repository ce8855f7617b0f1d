"""Supply chain: each installed package is pinned by its hash and has no known vulnerability."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

from tools.reliability.base import NotRun, Outcome, Row, Scale
from tools.reliability.record import ROOT

FILES = ("server.txt", "dev.txt", "build.txt")
TOOLS = ROOT / ".venv-audit" / "bin"


def pins(text: str) -> tuple[int, list[str]]:
    """How many requirements, and those without a hash."""
    lines = text.replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", "--"))]
    return len(wanted), [line.split()[0] for line in wanted if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)]


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The short form checks hashes only."""
    counted = [pins((ROOT / "requirements" / name).read_text()) for name in FILES]
    bare, total = [name for _, names in counted for name in names], sum(count for count, _ in counted)
    figures = {"requirements": total, "without a hash": len(bare)}
    if not scale.full:
        return Outcome(figures, not bare, total, "the hashes alone")
    tool = shutil.which("pip-audit", path=os.pathsep.join((str(TOOLS), os.environ.get("PATH", ""))))
    if tool is None:
        raise NotRun("pip-audit is not there: `make reliability` makes an environment for it")
    known: set[str] = set()
    for name in FILES:
        command = [tool, "--require-hashes", "--disable-pip", "--format", "json", "-r", f"requirements/{name}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not done.stdout.startswith("{"):
            raise NotRun(f"pip-audit cannot ask: {done.stderr.strip().splitlines()[-1][:150]}")
        for item in json.loads(done.stdout)["dependencies"]:
            known |= {f"{item['name']} {vulnerability['id']}" for vulnerability in item.get("vulns", ())}
    figures["known to be vulnerable"] = len(known)
    return Outcome(figures, not bare and not known, total, ", ".join(sorted(known)[:8]))


ROW = Row(
    number="supply",
    title="Supply chain",
    method="pip-audit checks the locked requirements of server, development and build.",
    goal="No known vulnerability, no requirement without a hash.",
    result="{known to be vulnerable} vulnerable, {without a hash} without a hash, of {requirements}.",
    run=run,
)
