"""Tests of `graph/vector_program.py`; tests/kernel runs the programs."""

import re
from pathlib import Path

import numpy as np
import pytest

from kanexport.graph import vector_program
from kanexport.graph.builder import Graph, Value
from kanexport.graph.vector_program import NoProgramError, Program, compiled

HEADER = Path(__file__).parents[3] / "kernel" / "src" / "program.h"
SPELLED = {"LessOrEqual": "LessEqual", "GreaterOrEqual": "GreaterEqual", "IsNaN": "IsNan"}


def names(program: Program) -> list[str]:
    known = list(vector_program.CODES)
    return [known[int(row[0])] for row in program.code]


def test_the_numbers_of_the_instructions_are_those_of_the_operators() -> None:
    (body,) = re.findall(r"enum class Op : int \{(.*?)\};", HEADER.read_text(), re.DOTALL)
    listed = re.findall(r"\bk(\w+)", re.sub(r"//.*", "", body))
    assert listed == [*(SPELLED.get(name, name) for name in vector_program.CODES), "Ops"]
    assert f"kTable = 1 << {vector_program.TABLE.bit_length() - 1}, kInput = 1 << 21" in HEADER.read_text()
    assert vector_program.INPUT == 1 << 21


def test_each_row_is_an_instruction_and_registers_are_used_again() -> None:
    def emit(g: Graph, x: Value, _: Value) -> list[tuple[Value, int]]:
        row = g.reshape(x, 0, 1, 2)
        shifted = g.add(row, g.const(np.arange(6.0).reshape(3, 2)))
        return [(g.op("Tanh", g.op("Abs", shifted)), 3)]

    program = compiled(emit, 2)
    assert names(program) == ["Add", "Abs", "Tanh"] * 3
    assert program.functions == 3
    assert program.registers == 4
    np.testing.assert_array_equal(program.tables, np.arange(6.0).reshape(3, 2))
    assert (program.code[:, 1] == [3, 3, 0, 3, 3, 1, 3, 3, 2]).all()


def test_gaussians_and_products_are_single_instructions() -> None:
    def emit(g: Graph, x: Value, _: Value) -> list[tuple[Value, int]]:
        distance = g.mul(g.sub(x, g.const(0.5)), g.const(2.0))
        bell = g.op("Exp", g.op("Neg", g.mul(distance, distance)))
        silu = g.op("Div", x, g.add(g.op("Exp", g.op("Neg", x)), g.const(1.0)))
        wave = g.op("Sin", g.add(g.mul(x, g.const(3.0)), g.const(0.25)))
        return [(bell, 1), (silu, 1), (wave, 1), (g.add(g.mul(x, x), bell), 1)]

    assert names(compiled(emit, 4)) == ["Radial", "Silu", "SinOf", "MulAdd"]


def test_a_result_that_is_an_input_or_another_result_is_copied() -> None:
    def emit(g: Graph, x: Value, normalized: Value) -> list[tuple[Value, int]]:
        size = g.op("Abs", x)
        return [(size, 1), (size, 1), (g.op("Identity", normalized), 1)]

    program = compiled(emit, 4)
    assert names(program) == ["Abs", "Copy", "Copy"]
    assert program.code[:, 2].tolist() == [vector_program.INPUT, 0, vector_program.INPUT + 1]


def test_what_has_no_instruction_has_no_program() -> None:
    with pytest.raises(NoProgramError, match="Erf"):
        compiled(lambda g, x, _: [(g.op("Erf", x), 1)], 4)
    with pytest.raises(NoProgramError, match="MatMul"):
        compiled(lambda g, x, _: [(g.op("MatMul", x, g.const(np.eye(4))), 1)], 4)
