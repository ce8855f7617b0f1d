"""The description of Python's stable interface in the kernel, compared with Python's own header."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.kernel.conftest import SOURCE

ABI = (SOURCE / "src" / "python_abi.h").read_text()
CONSTANTS = {
    "kEqual": "Py_EQ",
    "kReturn": "PYGEN_RETURN",
    "kError": "PYGEN_ERROR",
    "kNext": "PYGEN_NEXT",
    "kVarArgs": "METH_VARARGS",
    "kKeywords": "METH_KEYWORDS",
    "kNoArgs": "METH_NOARGS",
    "kOneArg": "METH_O",
    "kGarbageCollected": "Py_TPFLAGS_HAVE_GC",
    "kNoInstances": "Py_TPFLAGS_DISALLOW_INSTANTIATION",
    "kBytes": "Py_TPFLAGS_BYTES_SUBCLASS",
    "kDict": "Py_TPFLAGS_DICT_SUBCLASS",
    "kException": "Py_TPFLAGS_BASE_EXC_SUBCLASS",
    "kDealloc": "Py_tp_dealloc",
    "kTraverse": "Py_tp_traverse",
    "kClear": "Py_tp_clear",
    "kInit": "Py_tp_init",
    "kCall": "Py_tp_call",
    "kIter": "Py_tp_iter",
    "kIterNext": "Py_tp_iternext",
    "kMethods": "Py_tp_methods",
    "kGetSet": "Py_tp_getset",
    "kAlloc": "Py_tp_alloc",
    "kAwait": "Py_am_await",
    "kAmSend": "Py_am_send",
    "kApi": "PYTHON_ABI_VERSION",
}
MEMBERS = {
    "PyObject": ("ob_refcnt", "ob_type"),
    "PyMethodDef": ("ml_name", "ml_meth", "ml_flags", "ml_doc"),
    "PyGetSetDef": ("name", "get", "set", "doc", "closure"),
    "PyType_Slot": ("slot", "pfunc"),
    "PyType_Spec": ("name", "basicsize", "itemsize", "flags", "slots"),
    "PyModuleDef": ("m_name", "m_doc", "m_size", "m_methods", "m_slots", "m_traverse", "m_clear", "m_free"),
}


def compiled(folder: Path, lines: list[str], *flags: str) -> list[str]:
    """The lines that a program with these statements prints."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    source, program = folder / "abi.cpp", folder / "abi"
    source.write_text("\n".join([*lines, "}"]))
    command = [compiler, "-std=c++17", "-Wno-invalid-offsetof", *flags, str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def printed(values: list[str]) -> list[str]:
    return [f'std::printf("%lld\\n", (long long)({value}));' for value in values]


def test_numbers_and_layouts_are_those_of_python(tmp_path: Path) -> None:
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").is_file():
        pytest.skip("Python.h is not installed (Debian: python3-dev)")
    assert set(CONSTANTS) == set(re.findall(r"\b(k[A-Z]\w+) =", ABI))
    layout = [f"sizeof({name})" for name in MEMBERS]
    layout += [f"offsetof({name}, {member})" for name, members in MEMBERS.items() for member in members]
    begin = ["#include <cstddef>", "#include <cstdio>"]
    ours = compiled(
        tmp_path,
        [
            *begin,
            '#include "python_abi.h"',
            "int main() {",
            *printed([f"python::{name}" for name in CONSTANTS] + layout),
        ],
        *("-I", str(SOURCE / "src")),
    )
    theirs = compiled(
        tmp_path,
        ["#include <Python.h>", *begin, "int main() {", *printed([*CONSTANTS.values(), *layout])],
        *("-I", include, "-DPy_LIMITED_API=0x030B0000"),
    )
    assert dict(zip([*CONSTANTS, *layout], ours, strict=True)) == dict(zip([*CONSTANTS, *layout], theirs, strict=True))
