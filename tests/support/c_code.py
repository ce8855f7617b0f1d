"""C code of golden checkpoints, and its compilation by a compiler that a test names."""

import functools
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from kanexport.bundle import description
from kanexport.ccode import compiled, generate, source
from kanexport.ccode.compiled import Program
from kanexport.ccode.generate import CodeFiles, Facts
from kanexport.ccode.nodes import Node
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.shared.naming import UNNAMED
from kanexport.verify.tolerances import OUTPUT_TOLERANCE
from tests.support.golden_cases import network

STRICT = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic")
NAME = "net"


@functools.cache
def code(name: str, storage: str = "float32", tolerance: float = OUTPUT_TOLERANCE) -> CodeFiles:
    """The generated and verified code of a golden case."""
    facts = Facts(name=NAME, version=1, family="golden", files=(), names=UNNAMED, tolerance=tolerance, storage=storage)
    return generated(network(name), facts)


def generated(kan: Kan, facts: Facts) -> CodeFiles:
    """The generated and verified code of a network."""
    lowered = lower.lower(kan, "float32")
    return generate.generate(kan, lowered, description.layers(kan, lowered.node_tensors), facts)


def of_value(value: Node, inputs: int, outputs: int) -> AbstractContextManager[Program]:
    """The compiled program that computes a value."""
    about = source.Model(
        name=NAME, inputs=inputs, outputs=outputs, predict=value, explain=None, base=(), about=(), usage=()
    )
    return compiled.program(source.write(about), inputs, outputs, ["cc", "-Wall", "-Wextra", "-Werror"])


def written(files: CodeFiles, folder: Path) -> Path:
    """A folder with the files."""
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


def compile_and_run(command: list[str], main: str, folder: Path, *, run: tuple[str, ...] = ()) -> str:
    """Compile `main` with the generated code in a folder, and run it, with the command `run` before its name. Returns
    what it prints."""
    (folder / "main.c").write_text(main)
    built = subprocess.run(
        [*command, "-o", "main", "main.c", f"{NAME}.c", "-lm"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([*run, "./main"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main_of(rows: np.ndarray, *, explain: bool = False) -> str:
    """A program that prints the outputs of rows [B, n] and, with `explain`, their contributions, one row a line."""
    values = ", ".join(f"{value!r}f" for value in rows.astype(np.float32).reshape(-1).tolist())
    contributions = f"""
        {NAME}_explain(x + row * NET_INPUTS, c);
        for (int i = 0; i < NET_OUTPUTS * NET_INPUTS; i++) printf("%.9g ", (double)c[i]);"""
    return f"""#include <stdio.h>
#include "{NAME}.h"

static const float x[] = {{{values}}};

int main(void)
{{
    static float y[NET_OUTPUTS], c[NET_OUTPUTS * NET_INPUTS];
    for (int row = 0; row < {len(rows)}; row++) {{
        {NAME}_predict(x + row * NET_INPUTS, y);
        for (int i = 0; i < NET_OUTPUTS; i++) printf("%.9g ", (double)y[i]);{contributions if explain else ""}
        printf("\\n");
    }}
    (void)c;
    return 0;
}}
"""


def numbers(text: str) -> np.ndarray:
    """The printed numbers, one row a line."""
    return np.array([[float(word) for word in line.split()] for line in text.splitlines()])


def needs(*tools: str) -> None:
    """Skip the test if a tool is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
