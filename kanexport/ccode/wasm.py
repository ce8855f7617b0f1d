"""The generated C as one WebAssembly module, for the report that computes in a browser.

The module imports nothing. It exports `memory`, the functions `inputs`, `outputs` and `contributions`, which return
addresses of float32 arrays, and `predict` and `explain`, which read the first and write the others. A custom section
says which model it is: `kanexport.shared.wasm_module` has its format.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

from kanexport.ccode.compiled import compile_texts
from kanexport.ccode.source import EXPLAIN, Code
from kanexport.errors import OptionError, VerificationFailed
from kanexport.shared import wasm_module
from kanexport.shared.cli.suggest import how_to_install
from kanexport.shared.wasm_module import ModuleFacts

PACKAGE = "ziglang"
SECONDS = 600  # the first compilation also builds the C library, which takes half a minute
TARGET = ("-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c99", "-Os", "-s")
LINKED = ("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size={stack}", "-Wl,--initial-memory={memory}")
PAGE = 65_536  # bytes of WebAssembly's memory
SPARE = 8_192  # bytes of the stack for frames of functions

GLUE = """#include "{name}.h"

#define EXPORTED(name) __attribute__((export_name(name)))

static float row[{upper}_INPUTS], result[{upper}_OUTPUTS];

EXPORTED("inputs") float *{name}_inputs(void) {{ return row; }}
EXPORTED("outputs") float *{name}_outputs(void) {{ return result; }}
EXPORTED("predict") void {name}_run(void) {{ {name}_predict(row, result); }}
"""
GLUE_EXPLAIN = """
static float shares[{upper}_OUTPUTS * {upper}_INPUTS];

EXPORTED("contributions") float *{name}_contributions(void) {{ return shares; }}
EXPORTED("explain") void {name}_share(void) {{ {name}_explain(row, shares); }}
"""


def check() -> None:
    """Raises OptionError if the compiler is not installed."""
    try:
        missing = importlib.util.find_spec(PACKAGE) is None
    except ValueError:  # a module without a specification
        missing = True
    if missing:
        raise OptionError(
            f"--wasm needs the Python package {PACKAGE}, which is not installed",
            code="package-not-installed",
            hint=how_to_install("wasm"),
        )


def module(code: Code, facts: ModuleFacts) -> bytes:
    """The WebAssembly module of generated code, with the facts in its custom section. Raises OptionError if there is no
    compiler, and VerificationFailed if the code does not compile."""
    check()
    names = {"name": code.name, "upper": code.name.upper()}
    glue = (GLUE + (GLUE_EXPLAIN if EXPLAIN in code.stack else "")).format(**names)
    stack = -(-(max(code.stack.values()) + SPARE) // 16) * 16
    arrays = 4 * (facts.inputs + facts.outputs) * (1 + facts.inputs)
    memory = -(-(stack + code.tables + arrays + PAGE) // PAGE) * PAGE
    options = [option.format(stack=stack, memory=memory) for option in LINKED]
    with tempfile.TemporaryDirectory(prefix="kanexport-wasm-") as folder:
        texts = {f"{code.name}.c": code.text, f"{code.name}.h": code.header, "glue.c": glue}
        files = ["-o", "module.wasm", "glue.c", f"{code.name}.c"]
        command = [sys.executable, "-P", "-m", PACKAGE, "cc", *TARGET, *options, *files]
        fault = compile_texts(Path(folder), texts, command, SECONDS)
        if fault:
            raise VerificationFailed(
                f"{PACKAGE} does not compile the C code: {fault}",
                code="c-code-not-run",
                hint="nothing was written; export without --wasm, or install another version of ziglang",
            )
        return wasm_module.with_facts((Path(folder) / "module.wasm").read_bytes(), facts)
