"""The custom operator: random layers under sanitizers, and onnxruntime errors for invalid layers."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kanexport.graph import vector_program
from kanexport.shared import custom_ops
from tests.kernel.conftest import SOURCE, alone, builder
from tests.support.tiers import full

LAYERS = 120
MACHINES = ("avx512", "avx2", "portable")
SANITIZED: tuple[str, ...] = ("-std=c++17", "-O0", "-g", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math")
SANITIZED = (*SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCE / 'src'}")
I, O, K, DEGREE = 3, 2, 6, 3  # noqa: E741 - as everywhere here: sources, destinations, functions
KNOTS = np.cumsum(np.full((I, K + DEGREE + 1), 0.25, np.float32), axis=1)
COEF = np.linspace(-1, 1, K * I * O, dtype=np.float32).reshape(K * I, O)
WEIGHTS = np.linspace(-1, 1, I * O, dtype=np.float32).reshape(I, O)
GOOD: dict[str, Any] = {"degree": DEGREE, "scale": 1.0, "base": "silu", "nan_spreads": 1}


@pytest.fixture(scope="module")
def objects(place: Path) -> tuple[str, list[str]]:
    """The compiler, and the parts of the library for the sanitizers."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        pytest.skip("the operator is not built here: there is no g++")
    x86 = builder().X86 if platform.machine() == "x86_64" else {}
    common = ("evaluate_portable.cpp", "prepare.cpp", "prepare_basis.cpp", "program.cpp")
    parts = {**x86, **dict.fromkeys(common, ())}
    home = place / hashlib.sha256(repr((compiler, SANITIZED)).encode()).hexdigest()[:16]
    with alone(place) as folder:
        (folder / "nothing.cpp").write_text("int main() { return 0; }")
        probe = [compiler, *SANITIZED, str(folder / "nothing.cpp"), "-o", str(folder / "nothing")]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("the operator is not tried under sanitizers here: g++ has none")

        def compiled(item: tuple[str, tuple[str, ...]]) -> None:
            source, target = str(SOURCE / "src" / item[0]), str(folder / f"{item[0]}.o")
            subprocess.run([compiler, *SANITIZED, *item[1], "-c", source, "-o", target], check=True)

        if not home.exists():
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(compiled, parts.items()))
            home.mkdir()
            for path in folder.glob("*.o"):
                path.rename(home / path.name)
    return compiler, [str(home / f"{name}.o") for name in parts]


@full("package")
@pytest.mark.parametrize("harness", ["harness", "program_harness"])
def test_random_layers_are_right_on_every_machine_and_read_nothing_beside_them(
    harness: str, objects: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Every second layer has damaged values. Results are compared with an evaluation in float64, for whole batches and
    for single rows. Constants fill their memory blocks to the end."""
    compiler, parts = objects
    program, source = tmp_path / harness, str(Path(__file__).parent / f"{harness}.cpp")
    subprocess.run([compiler, *SANITIZED, source, *parts, "-o", str(program)], check=True)
    seen = set()
    for name in MACHINES:
        environment = os.environ | {"KANKERNEL_MACHINE": name}
        command = [str(program), "1", str(LAYERS)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-2000:]
        machine, right, refused = done.stdout.split()
        assert int(right) > LAYERS // 2
        assert int(refused) > LAYERS // 8
        seen.add(machine)
    assert "portable" in seen


@full("package")
@pytest.mark.parametrize("machine", MACHINES)
def test_every_basis_is_exact_on_every_machine(machine: str, installed: str) -> None:
    """The layers are divided among the instruction sets. Single rows have the bits that they have in a batch. The same
    outputs are NaN as in the portable graph."""
    command = [sys.executable, "-m", "tests.kernel.every_basis", str(MACHINES.index(machine)), str(len(MACHINES))]
    environment = os.environ | {"KANKERNEL_MACHINE": machine}
    done = subprocess.run(command, cwd=SOURCE.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *faults, counts = done.stdout.splitlines()
    assert not faults
    assert "'BasisLayer'" in counts


def one_node(kind: str, inputs: tuple[str, ...], constants: dict[str, np.ndarray], **attributes: Any) -> bytes:
    """A model of one operator, with the given inputs before its constants."""
    node = helper.make_node(kind, [*inputs, *constants], ["y"], domain=custom_ops.DOMAIN, **attributes)
    *infos, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*inputs, "y"))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(custom_ops.DOMAIN, 1)]
    made = helper.make_model(helper.make_graph([node], "g", infos, [y], tensors), opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def graph(given: str = "", **changes: Any) -> bytes:
    """One operator of splines. `given`: a constant that is an input of the graph instead."""
    constants = {"start": np.zeros((1, O), np.float32), "knots": KNOTS, "coef": COEF, "weights": WEIGHTS}
    constants = {name: value for name in constants if (value := changes.pop(name, constants[name])) is not None}
    attributes = {key: value for key, value in (GOOD | changes).items() if value is not None}
    model = onnx.load_from_string(one_node(custom_ops.SPLINES, ("x",), constants, **attributes))
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name == given]:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def session(library: str, model: bytes, threads: int = 1) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


NO_LAYERS: dict[str, dict[str, Any]] = {
    "degree 0": {"degree": 0},
    "degree 4": {"degree": 4},
    "a degree beyond an int": {"degree": 2**40 + 3},
    "another degree than its knots": {"degree": 2},
    "no degree": {"degree": None},
    "a scale that is none": {"scale": float("nan")},
    "a scale too large": {"scale": 3e38},
    "another base": {"base": "gelu"},
    "a base without weights": {"weights": None},
    "a knot that is none": {"knots": np.where(np.arange(K + 4) == 4, np.nan, KNOTS).astype(np.float32)},
    "an infinite knot": {"knots": np.where(np.arange(K + 4) == 9, np.inf, KNOTS).astype(np.float32)},
    "knots that repeat": {"knots": np.repeat(KNOTS[:, ::2], 2, axis=1)},
    "knots that decrease": {"knots": np.ascontiguousarray(KNOTS[:, ::-1])},
    "knots of two sources": {"knots": KNOTS[:2]},
    "too few knots": {"knots": KNOTS[:, :4]},
    "no knots": {"knots": KNOTS[:, :0]},
    "a vector of knots": {"knots": KNOTS[0]},
    "coefficients of another number": {"coef": COEF[:-1]},
    "no coefficients": {"coef": COEF[:0]},
    "no outputs": {"coef": COEF[:, :0], "weights": WEIGHTS[:, :0]},
    "weights of another shape": {"weights": WEIGHTS.T.copy()},
    "knots that are not constant": {"given": "knots"},
    "coefficients that are not constant": {"given": "coef"},
    "weights that are not constant": {"given": "weights"},
    "coefficients in double precision": {"coef": COEF.astype(np.float64)},
}


@pytest.mark.parametrize("changes", NO_LAYERS.values(), ids=NO_LAYERS)
def test_what_is_no_layer_is_no_session(changes: dict[str, Any], installed: str) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session(installed, graph(**changes))


def test_what_is_no_run_is_refused(installed: str) -> None:
    runs = session(installed, graph(given="start"))
    wrong_rows = [(shape, (1, O)) for shape in ((2, I + 1), (2, 0), (I,), (1, 2, I))]
    for x, start in (*wrong_rows, *(((2, I), shape) for shape in ((1, O + 1), (3, O), (0, O), (O,)))):
        with pytest.raises(Exception, match="SplineLayer"):
            runs.run(None, {"x": np.zeros(x, np.float32), "start": np.zeros(start, np.float32)})
    assert runs.run(None, {"x": np.zeros((0, I), np.float32), "start": np.zeros((1, O), np.float32)})[0].shape == (0, O)


def test_bits_do_not_depend_on_threads_or_on_the_rows_beside_one(installed: str) -> None:
    x = np.random.default_rng(0).uniform(0, 3, size=(1000, I)).astype(np.float32)
    entry, two = (session(installed, graph(), threads) for threads in (1, 2))
    whole = entry.run(None, {"x": x})[0]
    assert two.run(None, {"x": x})[0].tobytes() == whole.tobytes()
    for start, stop in ((0, 1), (7, 8), (3, 70), (64, 200), (999, 1000)):
        assert entry.run(None, {"x": x[start:stop]})[0].tobytes() == whole[start:stop].tobytes()
    with ThreadPoolExecutor(4) as pool:
        runs = {run[0].tobytes() for run in pool.map(lambda _: entry.run(None, {"x": x}), range(40))}
    assert runs == {whole.tobytes()}


def test_a_wheel_without_a_compiler_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE / "build_library.py"), str(tmp_path / "out.so")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no C++ compiler is installed: install g++" in done.stderr


CODE = np.array([[vector_program.CODES["Affine"], 0, vector_program.INPUT, -1, vector_program.TABLE]], np.float32)
PROGRAM: dict[str, Any] = {
    "program": CODE,
    "constants": np.array([[0.5]], np.float32),
    "tables": np.ones((1, I), np.float32),
    "coef": COEF[:I],
}
SETTINGS: dict[str, Any] = {"terms": 1, "registers": 1, "normalized": 0, "epsilon": 0.0, "nan_spreads": 0}


def program_graph(**changes: Any) -> bytes:
    """One BasisLayer of one function, (x - 0.5) times a table."""
    constants = {name: changes.get(name, array) for name, array in PROGRAM.items()}
    settings = {name: changes.get(name, value) for name, value in SETTINGS.items()}
    held = {"start": np.zeros((1, O), np.float32), **constants}
    return one_node(custom_ops.BASIS, ("x",), held, **settings)


def changed(at: int, value: float) -> np.ndarray:
    code = CODE.copy()
    code[0, at] = value
    return code


def test_a_program_computes_a_layer(installed: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, I)).astype(np.float32)
    y = session(installed, program_graph()).run(None, {"x": x})[0]
    np.testing.assert_allclose(y, (x - 0.5) @ COEF[:I], rtol=1e-5)


NO_PROGRAMS: list[dict[str, Any]] = [
    *({"program": changed(at, value)} for at, value in ((0, 1000), (0, 0.5), (0, np.nan), (1, 1), (1, -1), (2, 0))),
    {"program": changed(2, vector_program.INPUT + 1)},
    {"program": changed(3, -2)},
    {"program": changed(4, vector_program.TABLE + 1)},
    *({"program": code} for code in (CODE[:, :4], CODE[:0])),
    {"constants": np.zeros((2, 1), np.float32)},
    *({"tables": np.ones((1, columns), np.float32)} for columns in (I + 1, 0)),
    *({"coef": coef} for coef in (COEF, COEF[:0])),
    *({"registers": count} for count in (0, 2**40)),
    *({"terms": count} for count in (0, 2)),
    {"normalized": 1, "epsilon": float("nan")},
]


@pytest.mark.parametrize("changes", NO_PROGRAMS)
def test_what_is_no_program_is_no_session(changes: dict[str, Any], installed: str) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session(installed, program_graph(**changes))
