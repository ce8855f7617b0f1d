"""The descriptions of the interfaces of Python and of onnxruntime in the kernel, compared with their own headers."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.kernel.conftest import SOURCE
from tests.support.tiers import full

ABI = (SOURCE / "src" / "python_abi.h").read_text()
CONSTANTS = {
    "kEqual": "Py_EQ", "kReturn": "PYGEN_RETURN", "kError": "PYGEN_ERROR", "kNext": "PYGEN_NEXT",
    "kVarArgs": "METH_VARARGS", "kKeywords": "METH_KEYWORDS", "kNoArgs": "METH_NOARGS", "kOneArg": "METH_O",
    "kGarbageCollected": "Py_TPFLAGS_HAVE_GC", "kNoInstances": "Py_TPFLAGS_DISALLOW_INSTANTIATION",
    "kList": "Py_TPFLAGS_LIST_SUBCLASS", "kTuple": "Py_TPFLAGS_TUPLE_SUBCLASS",
    "kBytes": "Py_TPFLAGS_BYTES_SUBCLASS", "kDict": "Py_TPFLAGS_DICT_SUBCLASS",
    "kException": "Py_TPFLAGS_BASE_EXC_SUBCLASS", "kDealloc": "Py_tp_dealloc", "kTraverse": "Py_tp_traverse",
    "kClear": "Py_tp_clear", "kInit": "Py_tp_init", "kCall": "Py_tp_call", "kIter": "Py_tp_iter",
    "kIterNext": "Py_tp_iternext", "kMethods": "Py_tp_methods", "kGetSet": "Py_tp_getset", "kAlloc": "Py_tp_alloc",
    "kAwait": "Py_am_await", "kAmSend": "Py_am_send", "kApi": "PYTHON_ABI_VERSION",
}  # fmt: skip
# Names of types in Python's own header, and ours.
TAGS = {"_object": "PyObject", "_typeobject": "PyTypeObject", "PySendResult": "int"}
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


@full("package")
def test_numbers_and_layouts_are_those_of_python(tmp_path: Path) -> None:
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").is_file():
        pytest.skip("Python.h is not installed (Debian: python3-dev)")
    assert set(CONSTANTS) == set(re.findall(r"\b(k[A-Z]\w+) =", ABI))
    layout = [f"sizeof({name})" for name in MEMBERS]
    layout += [f"offsetof({name}, {member})" for name, members in MEMBERS.items() for member in members]
    begin = ["#include <cstddef>", "#include <cstdio>", "#include <cxxabi.h>", "#include <typeinfo>"]
    head = [*begin, '#include "python_abi.h"', "int main() {"]
    functions = re.findall(r"^[\w *]+\b(Py\w+)\(.*\);$", ABI, re.MULTILINE)
    assert len(functions) >= 50
    text = "abi::__cxa_demangle(typeid(decltype({})).name(), nullptr, nullptr, nullptr)"
    signatures = [f'std::printf("%s\\n", {text.format(name)});' for name in functions]
    own = [*printed([*(f"python::{name}" for name in CONSTANTS), *layout]), *signatures]
    ours = compiled(tmp_path, [*head, *own], "-I", str(SOURCE / "src"))
    head = ["#include <Python.h>", *begin, "int main() {"]
    flags = "-I", include, "-DPy_LIMITED_API=0x030B0000"
    theirs = compiled(tmp_path, [*head, *printed([*CONSTANTS.values(), *layout]), *signatures], *flags)
    names = [*CONSTANTS, *layout, *functions]
    for tag, alias in TAGS.items():
        theirs = [line.replace(tag, alias) for line in theirs]
    assert dict(zip(names, ours, strict=True)) == dict(zip(names, theirs, strict=True))


HEADER = "onnxruntime_c_api.h"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
ORT_CONSTANTS = {
    "kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kOptional": "INPUT_OUTPUT_OPTIONAL",
    "kDefaultMemory": "OrtMemTypeDefault",
    "kFail": "ORT_FAIL",
    "kInvalidArgument": "ORT_INVALID_ARGUMENT",
}
# The functions of OrtCustomOp that the operator sets, by our names.
CALLBACKS = {
    "name": "GetName", "provider": "GetExecutionProviderType", "input_type": "GetInputType",
    "input_count": "GetInputTypeCount", "destroy": "KernelDestroy",
    "input_characteristic": "GetInputCharacteristic", "input_memory": "GetInputMemoryType",
    "variadic_output_same": "GetVariadicOutputHomogeneity", "create_kernel_v2": "CreateKernelV2",
    "compute_v2": "KernelComputeV2", "first_version": "GetStartVersion", "last_version": "GetEndVersion",
}  # fmt: skip


@full("package")
def test_the_positions_are_those_of_the_header(tmp_path: Path) -> None:
    folder = next((x for x in (os.environ.get("ORT_INCLUDE", ""), *PLACES) if (Path(x) / HEADER).is_file()), None)
    if folder is None:
        pytest.skip(f"{HEADER} is not installed (Debian: libonnxruntime-dev; other folders: ORT_INCLUDE)")
    slots = dict(re.findall(r"^  (\w+) = (\d+),", (SOURCE / "src" / "ort_abi.h").read_text(), re.MULTILINE))
    assert len(slots) >= 20
    checks = [f"static_assert(offsetof(OrtApi, {name}) == {at} * sizeof(void*));" for name, at in slots.items()]
    checks += [f"static_assert({theirs} == ort::{ours});" for ours, theirs in ORT_CONSTANTS.items()]
    checks += [
        f"static_assert(offsetof(OrtCustomOp, {b}) == offsetof(ort::CustomOp, {a}));" for a, b in CALLBACKS.items()
    ]
    lines = [f'#include "{HEADER}"', '#include "ort_abi.h"', *checks, "int main() {"]
    assert compiled(tmp_path, lines, "-I", folder, "-I", str(SOURCE / "src")) == []
