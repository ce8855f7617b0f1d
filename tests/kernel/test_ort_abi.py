"""The operator's description of onnxruntime's C interface, compared with onnxruntime's header."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.conftest import SOURCE

HEADER = "onnxruntime_c_api.h"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
ABI = (SOURCE / "src" / "ort_abi.h").read_text()
CONSTANTS = {
    "kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kOptional": "INPUT_OUTPUT_OPTIONAL",
    "kDefaultMemory": "OrtMemTypeDefault",
    "kFail": "ORT_FAIL",
    "kInvalidArgument": "ORT_INVALID_ARGUMENT",
}
# The functions of OrtCustomOp that the operator sets, by our names.
CALLBACKS = {
    "name": "GetName",
    "provider": "GetExecutionProviderType",
    "input_type": "GetInputType",
    "input_count": "GetInputTypeCount",
    "destroy": "KernelDestroy",
    "input_characteristic": "GetInputCharacteristic",
    "input_memory": "GetInputMemoryType",
    "variadic_output_same": "GetVariadicOutputHomogeneity",
    "create_kernel_v2": "CreateKernelV2",
    "compute_v2": "KernelComputeV2",
    "first_version": "GetStartVersion",
    "last_version": "GetEndVersion",
}


def test_the_positions_are_those_of_the_header(tmp_path: Path) -> None:
    folder = next((x for x in (os.environ.get("ORT_INCLUDE", ""), *PLACES) if (Path(x) / HEADER).is_file()), None)
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if folder is None:
        pytest.skip(f"{HEADER} is not installed (Debian: libonnxruntime-dev; other folders: ORT_INCLUDE)")
    if compiler is None:
        pytest.skip("there is no g++")
    slots = dict(re.findall(r"^  (\w+) = (\d+),", ABI, re.MULTILINE))
    assert len(slots) >= 20
    checks = [f"static_assert(offsetof(OrtApi, {name}) == {at} * sizeof(void*));" for name, at in slots.items()]
    checks += [f"static_assert({theirs} == ort::{ours});" for ours, theirs in CONSTANTS.items()]
    checks += [
        f"static_assert(offsetof(OrtCustomOp, {b}) == offsetof(ort::CustomOp, {a}));" for a, b in CALLBACKS.items()
    ]
    source = tmp_path / "abi.cpp"
    source.write_text("\n".join([f'#include "{HEADER}"', '#include "ort_abi.h"', *checks, "int main() {}"]))
    command = [compiler, "-std=c++17", "-Wno-invalid-offsetof", "-I", folder, "-I", str(SOURCE / "src"), str(source)]
    done = subprocess.run([*command, "-fsyntax-only"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
