"""Instruction counts of phases of a Python process, by object file, with callgrind.

A parent calls `restart`, which runs the same script under valgrind. The child makes a `Counter` and calls `begin` and
`end` around each phase. The parent reads the counts of all phases with `phases`. Only the phases count: callgrind
does not instrument the start of the process.

valgrind has no AVX-512, so libraries use their AVX2 code. Other load on the machine does not change the counts.

Source of the file format: the Valgrind documentation, "Callgrind Format Specification".
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections import Counter as Sum
from collections.abc import Sequence
from pathlib import Path

HEADER = Path("/usr/include/valgrind/callgrind.h")
SOURCE = """#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""
TRIGGER = "desc: Trigger: Client Request: "
COST = re.compile(r"[+*\d-]\S* (\d+)")


def missing() -> str | None:
    """The reason for which this machine cannot count instructions; None if it can."""
    if shutil.which("valgrind") is None:
        return "--instructions needs valgrind, which is not installed: install the package valgrind"
    if not HEADER.exists():
        return f"--instructions needs {HEADER}, which is absent: install the development files of valgrind"
    if shutil.which("cc") is None:
        return "--instructions needs the C compiler cc, which is not installed: install gcc or clang"
    return None


def restart(script: str, arguments: Sequence[str], folder: Path) -> None:
    """Run a Python script under callgrind, which writes its counts to `folder`. Raises CalledProcessError."""
    (folder / "requests.c").write_text(SOURCE)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(folder / "requests.so"), str(folder / "requests.c")], check=True
    )
    options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'out'}", "-q"]
    child = [sys.executable, "-P", script, *arguments]
    subprocess.run(["valgrind", *options, *child], check=True, env=os.environ | {"PYTHONHASHSEED": "0"})


class Counter:
    """Switch of callgrind, in a process that `restart` has started with this folder."""

    def __init__(self, folder: Path) -> None:
        self._requests = ctypes.CDLL(str(folder / "requests.so"))

    def begin(self) -> None:
        """Count from now on."""
        self._requests.begin()

    def end(self, name: str) -> None:
        """Write the counts since `begin` under this name, and count no longer."""
        self._requests.end(name.encode())


def phases(folder: Path) -> dict[str, Sum[tuple[str, str]]]:
    """Instructions of each phase by object file and function, without those of the functions that it calls."""
    read = {}
    for path in folder.glob("out*"):
        text = path.read_text(errors="replace")
        name = next((line.removeprefix(TRIGGER) for line in text.splitlines() if line.startswith(TRIGGER)), None)
        if name is not None:
            read[name] = _self_costs(text)
    return read


def _self_costs(text: str) -> Sum[tuple[str, str]]:
    names: dict[tuple[str, str], str] = {}
    costs: Sum[tuple[str, str]] = Sum()
    file = function = ""
    called = False
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if found and key in ("ob", "fn", "cob", "cfn"):
            number, _, name = value.partition(" ")
            kind = key.removeprefix("c")
            value = names.setdefault((kind, number), name) if number.startswith("(") else value
            file, function = (value if key == "ob" else file), (value if key == "fn" else function)
        elif key == "calls":
            called = True  # the next line has the cost of the called function
        elif (cost := COST.fullmatch(line)) is not None:
            if not called:
                costs[Path(file).name, function] += int(cost[1])
            called = False
    return costs
