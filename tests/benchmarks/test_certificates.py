"""The search for rows outside of certificates runs, and counts the rows of a network."""

import subprocess
import sys
from pathlib import Path

from tests.support.tiers import full

pytestmark = full("package")

ROOT = Path(__file__).parents[2]


def test_the_search_of_one_network() -> None:
    command = [sys.executable, "benchmarks/certificates.py", "--only", "pykan-hello-pruned", "--budget", "1s"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pykan-hello-pruned" in done.stdout + done.stderr
    assert "0 outside" in done.stdout + done.stderr
