"""The generated C for several compilers and machines; each test is skipped if its tool is not installed."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kanexport.ccode import compiled
from kanexport.errors import VerificationFailed
from tests.support import c_code
from tests.support.c_code import STRICT, numbers
from tests.support.golden_cases import case
from tests.support.tiers import full

SMALL, WIDE = "pykan-hello-adapted", "efficient-kan-digits"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def rows(name: str, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and float64 outputs of the library that trained a golden case."""
    reference = case(name).reference()
    return reference["x"][:count], reference["y64"][:count]


def ran(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout + done.stderr


def close(y: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@full("package")
@pytest.mark.parametrize("name", [SMALL, WIDE, "fastkan-digits", "chebykan-digits-layernorm"])
@pytest.mark.parametrize("command", [("clang", "-O2"), ("gcc", "-O3", *SANITIZERS)])
def test_compilers_agree(name: str, command: tuple[str, ...], tmp_path: Path) -> None:
    c_code.needs(command[0], "gcc")
    files, (x, expected) = c_code.code(name), rows(name)
    main = c_code.main_of(x, explain=files.contributes)
    printed = numbers(c_code.compile_and_run([*command, *STRICT], main, c_code.written(files, tmp_path)))
    y, contributions = np.split(printed, [expected.shape[1]], axis=1)
    close(y, expected)
    with compiled.program(files.code, x.shape[1], expected.shape[1], ["gcc"]) as program:
        y0, c0 = program.run(x.astype(np.float32))
    close(y, y0)
    if files.contributes:
        np.testing.assert_allclose(contributions.reshape(c0.shape), c0, atol=1e-4)


@full("package")
def test_the_header_is_for_cplusplus_too(tmp_path: Path) -> None:
    c_code.needs("g++", "gcc")
    folder = c_code.written(c_code.code(SMALL), tmp_path)
    text = "int main() { float x[NET_INPUTS] = {0}, y[1]; net_predict(x, y); return !(y[0] == y[0]); }"
    (folder / "main.cpp").write_text(f'#include "net.h"\n{text}\n')
    link = ["g++", "-Wall", "-Werror", "main.cpp", "net.o", "-lm", "-o", "main"]
    for command in (["gcc", *STRICT, "-c", "net.c"], link, ["./main"]):
        ran(command, folder)


CORTEX = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "--specs=rdimon.specs")
CORTEX_START = """
extern void _start(void);
extern unsigned char __stack;
static void reset(void)
{
    *(volatile unsigned *)0xE000ED88 |= 0xF << 20; /* the floating-point unit */
    _start();
}
__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {&__stack, (void *)reset};
"""
CORTEX_MEMORY = """
ENTRY(_start)
MEMORY { rom (rx) : ORIGIN = 0, LENGTH = 4M  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) *(.init*) *(.fini*) *(.eh_frame*) } > rom
  .ARM.exidx : { *(.ARM.exidx*) } > rom
  .data : { *(.data*) } > ram
  .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > ram
  end = .; __end__ = .; __HeapLimit = .; __stack = ORIGIN(ram) + LENGTH(ram);
}
"""


@full("package")
def test_a_cortex_m_computes_the_same(tmp_path: Path) -> None:
    """Cortex-M4 with its floating-point unit, emulated; semihosting prints."""
    c_code.needs("arm-none-eabi-gcc", "qemu-system-arm")
    folder, (x, expected) = c_code.written(c_code.code(SMALL), tmp_path), rows(SMALL)
    for name, text in (("start.c", CORTEX_START), ("memory.ld", CORTEX_MEMORY), ("main.c", c_code.main_of(x))):
        (folder / name).write_text(text)
    files = ["-T", "memory.ld", "-o", "main.elf", "main.c", "net.c", "start.c", "-lm"]
    ran(["arm-none-eabi-gcc", "-O2", *CORTEX, *files], folder)
    emulator = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native"]
    close(numbers(ran([*emulator, "-kernel", "main.elf"], folder)), expected)


AVR_MAIN = """
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <stdlib.h>
#include "net.h"

static const float x[] = {%s};

static void put(char sign)
{
    while (!(UCSR0A & (1 << UDRE0))) {
    }
    UDR0 = sign;
}

int main(void)
{
    char text[24];
    float y[NET_OUTPUTS];
    UCSR0B = 1 << TXEN0;
    for (int row = 0; row < %d; row++) {
        net_predict(x + row * NET_INPUTS, y);
        dtostre(y[0], text, 7, 0);
        for (char *at = text; *at; at++) put(*at);
        put('\\n');
    }
    for (volatile int wait = 0; wait < 20000; wait++) {
    }
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}
"""


@full("package")
def test_an_8_bit_controller_computes_the_same(tmp_path: Path) -> None:
    """ATmega1284P, emulated; its serial port prints."""
    c_code.needs("avr-gcc", "simavr")
    folder, (x, expected) = c_code.written(c_code.code(SMALL), tmp_path), rows(SMALL, 4)
    values = ", ".join(f"{value!r}f" for value in x.astype(np.float32).reshape(-1).tolist())
    (folder / "main.c").write_text(AVR_MAIN % (values, len(x)))
    ran(["avr-gcc", "-std=c99", "-O2", "-mmcu=atmega1284p", "-o", "main.elf", "main.c", "net.c", "-lm"], folder)
    said = ran(["simavr", "-m", "atmega1284p", "-f", "16000000", "main.elf"], folder)
    printed = re.findall(r"-?\d\.\d+e[+-]\d+", said)
    close(np.array(printed, dtype=float)[:, None], expected)


CBMC_MAIN = """
#include "net.h"
extern float nondet_float(void);
int main(void)
{
    float x[NET_INPUTS], y[NET_OUTPUTS];
    for (int i = 0; i < NET_INPUTS; i++) x[i] = nondet_float();
    net_predict(x, y);
    return 0;
}
"""


@full("package")
def test_no_input_makes_the_code_read_out_of_bounds(tmp_path: Path) -> None:
    """Bounded model checking over all inputs, NaN and infinities included: bounds, pointers, overflow, loop ends."""
    c_code.needs("cbmc")
    folder = c_code.written(c_code.code("pykan-hello-pruned"), tmp_path)
    (folder / "main.c").write_text(CBMC_MAIN)
    checks = ["--bounds-check", "--pointer-check", "--conversion-check", "--unwind", "20", "--unwinding-assertions"]
    assert "VERIFICATION SUCCESSFUL" in ran(["cbmc", "main.c", "net.c", *checks, "-DNET_NO_EXPLAIN"], folder)


def test_a_program_that_does_not_compile_is_an_error() -> None:
    c_code.needs("cc")
    with (
        pytest.raises(VerificationFailed, match="does not compile the C code") as caught,
        compiled.program(c_code.code(SMALL).code, 2, 1, ["cc", "-include", "no-such-header.h"]),
    ):
        pass
    assert caught.value.code == "c-code-not-run"
