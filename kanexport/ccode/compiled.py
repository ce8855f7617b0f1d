"""The generated C as a program: compiled by the compiler of the machine, and run on rows."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.ccode.source import Code
from kanexport.errors import REPORT, VerificationFailed

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-pedantic")
SECONDS = 300  # of a compilation, and of a run
PROGRAM = """#include "{name}.h"
#include <stdio.h>

static float x[{upper}_INPUTS], y[{upper}_OUTPUTS];
{arrays}
int main(void)
{{
    while (fread(x, sizeof x, 1, stdin) == 1) {{
        {name}_predict(x, y);
        if (fwrite(y, sizeof y, 1, stdout) != 1) return 1;
        {explain}
    }}
    return 0;
}}
"""
EXPLAIN = (
    "static float contributions[{upper}_OUTPUTS * {upper}_INPUTS];",
    "{name}_explain(x, contributions); if (fwrite(contributions, sizeof contributions, 1, stdout) != 1) return 1;",
)

Rows = npt.NDArray[np.float32]


def compiler() -> list[str]:
    """The command of a C compiler: that of the environment variable CC, or the first that is installed; [] for none."""
    named = shlex.split(os.environ.get("CC", ""))
    candidates = [named] if named else [[name] for name in COMPILERS]
    return next((command for command in candidates if shutil.which(command[0])), [])


@dataclass(frozen=True, slots=True)
class Program:
    """Compiled program. `command`: the compiler with its arguments, without file names."""

    path: Path
    command: str
    inputs: int
    outputs: int
    explains: bool

    def run(self, x: Rows) -> tuple[Rows, Rows | None]:
        """Outputs [B, outputs] and contributions [B, outputs, inputs] of rows [B, inputs]. Raises VerificationFailed
        if the program fails."""
        data = np.ascontiguousarray(x, dtype=np.float32).tobytes()
        try:
            done = subprocess.run([self.path], input=data, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(f"the compiled C code does not run: {error}") from error
        each = self.outputs * (1 + self.inputs * self.explains)
        if done.returncode or len(done.stdout) != len(x) * each * 4:
            raise _failed(f"the compiled C code ends with status {done.returncode}, after {len(done.stdout)} bytes")
        values = np.frombuffer(done.stdout, dtype=np.float32).reshape(len(x), each)
        contributions = values[:, self.outputs :].reshape(len(x), self.outputs, -1) if self.explains else None
        return values[:, : self.outputs], contributions


@contextmanager
def program(code: Code, inputs: int, outputs: int, command: list[str]) -> Iterator[Program]:
    """The code compiled by `command`, in a temporary folder. Raises VerificationFailed if it does not compile."""
    explains = "explain" in code.stack
    arrays, explain = EXPLAIN if explains else ("", "")
    facts = {"name": code.name, "upper": code.name.upper()}
    main = PROGRAM.format(arrays=arrays.format(**facts), explain=explain.format(**facts), **facts)
    texts = {f"{code.name}.c": code.text, f"{code.name}.h": code.header, "program.c": main}
    with tempfile.TemporaryDirectory(prefix="kanexport-c-") as folder:
        arguments = [*command, *FLAGS]
        files = ["-o", "program", "program.c", f"{code.name}.c", "-lm"]
        fault = compile_texts(Path(folder), texts, [*arguments, *files], SECONDS)
        if fault:
            raise _failed(f"{command[0]} does not compile the C code: {fault}")
        yield Program(Path(folder) / "program", " ".join(arguments), inputs, outputs, explains)


def compile_texts(folder: Path, texts: Mapping[str, str], command: Sequence[str], seconds: float) -> str:
    """Write files into a folder and run a compiler there. Returns the reason why it failed, or an empty text."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, cwd=folder, timeout=seconds, check=False, **streams)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip()[:300] or f"exit status {done.returncode}" if done.returncode else ""


def _failed(message: str) -> VerificationFailed:
    return VerificationFailed(
        message,
        code="c-code-not-run",
        hint=f"name another compiler with CC=gcc kanserve export ...; otherwise {REPORT}",
    )
