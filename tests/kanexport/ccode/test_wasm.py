"""WebAssembly of the generated C, run by Node.js."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kanexport.ccode import compiled, wasm
from kanexport.errors import OptionError
from kanexport.pipeline import Request, export
from kanexport.shared import wasm_module
from kanexport.shared.wasm_module import ModuleFacts
from tests.support import c_code
from tests.support.golden_cases import case, network
from tests.support.tiers import full

NODE = """
const [file, rows] = process.argv.slice(1);
const module = new WebAssembly.Module(require("fs").readFileSync(file));
const { exports: net } = new WebAssembly.Instance(module, {});
const of = (address, count) => new Float32Array(net.memory.buffer, address, count);
const result = JSON.parse(rows).map((row) => {
  of(net.inputs(), row.length).set(row);
  net.predict();
  net.explain();
  const y = Array.from(of(net.outputs(), OUTPUTS));
  return [...y, ...of(net.contributions(), row.length * OUTPUTS)];
});
console.log(JSON.stringify({ imports: WebAssembly.Module.imports(module).length, result }));
"""


def facts(name: str) -> ModuleFacts:
    sizes = {"inputs": network(name).n_inputs, "outputs": network(name).n_outputs}
    return ModuleFacts(name="net", version=1, **sizes, sources={}, base=(), reference=(), explained="", tolerance=1e-5)


def needs() -> None:
    c_code.needs("node", "cc")
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("not installed: ziglang (the extra wasm)")


def computed(module: Path, x: np.ndarray, outputs: int) -> np.ndarray:
    """[B, outputs * (1 + inputs)]: outputs and contributions of a module for rows x [B, inputs], by Node.js."""
    command = ["node", "-e", NODE.replace("OUTPUTS", str(outputs)), str(module), json.dumps(x.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["imports"] == 0
    return np.array(document["result"])


LARGEST = {
    ("pykan-hello-adapted", "float32"): 10_000,
    ("efficient-kan-digits", "float32"): 60_000,
    ("efficient-kan-digits", "int16"): 40_000,
}


@full("package")
@pytest.mark.parametrize(("name", "storage"), LARGEST)
def test_a_module_computes_what_the_c_code_does(name: str, storage: str, tmp_path: Path) -> None:
    needs()
    code, own = c_code.code(name, storage, 5e-4).code, facts(name)
    module = wasm.module(code, own)
    assert len(module) <= LARGEST[name, storage]
    assert wasm_module.facts(module) == own
    (tmp_path / "net.wasm").write_bytes(module)
    x = case(name).reference()["x"][:20].astype(np.float32)
    with compiled.program(code, own.inputs, own.outputs, ["cc"]) as program:
        y, contributions = program.run(x)
    result = computed(tmp_path / "net.wasm", x, own.outputs)
    np.testing.assert_allclose(result[:, : own.outputs], y, rtol=0, atol=2e-6 * np.abs(y).max())
    shares = contributions.reshape(len(x), -1)
    np.testing.assert_allclose(result[:, own.outputs :], shares, rtol=0, atol=1e-4 * np.abs(shares).max())


@full("package")
def test_a_module_has_the_units_of_the_scalers(tmp_path: Path) -> None:
    needs()
    inputs, outputs = {"mean": [50, 20], "scale": [25, 10]}, {"min": [0], "max": [2500]}
    for side, scaler in (("inputs", inputs), ("outputs", outputs)):
        (tmp_path / f"{side}.json").write_text(json.dumps(scaler))
    request = Request(
        path=case("pykan-hello-adapted").path, repository=tmp_path / "models", name="net", code=tmp_path, wasm=True,
        input_scaler=tmp_path / "inputs.json", output_scaler=tmp_path / "outputs.json",
    )  # fmt: skip
    folder = export(request).directory
    own = wasm_module.facts((tmp_path / "net.wasm").read_bytes())
    np.testing.assert_allclose(own.reference, inputs["mean"], rtol=0.01)  # the middle of the grid, about 0 when scaled
    x = np.random.default_rng(0).normal(inputs["mean"], inputs["scale"], size=(20, 2)).astype(np.float32)
    y = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
    result = computed(tmp_path / "net.wasm", x, 1)
    np.testing.assert_allclose(result[:, :1], y, rtol=0, atol=1e-5 * np.abs(y).max())
    np.testing.assert_allclose(result[:, 1:].sum(axis=1) + own.base[0], y[:, 0], rtol=0, atol=1e-4 * np.abs(y).max())


def test_without_the_compiler_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)
    with pytest.raises(OptionError, match="--wasm needs the Python package ziglang") as caught:
        wasm.check()
    assert "[wasm]" in caught.value.hint
