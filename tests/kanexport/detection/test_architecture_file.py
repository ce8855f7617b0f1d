"""The architecture file: its steps, the resulting network, and its documentation page."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.cli import export_command
from kanexport.detection import architecture_file
from kanexport.detection.architecture_file import KINDS
from kanexport.errors import ExportError, FamilyError, InvalidKan, OptionError
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.support.golden_cases import ROOT, cases
from tests.support.small_checkpoints import Tensors, beside_forward, chebyshev, exported, floats, normal, save

PAGE = (ROOT / "docs" / "reference" / "architecture-file.md").read_text().replace("\\\n", " ")
ONE = np.ones(1, np.float32)


def cheby(n: int, m: int) -> Tensors:
    return floats({"cheby_coeffs": normal(n, n, m, 3)})


def fourier(n: int, m: int) -> Tensors:
    return floats({"fouriercoeffs": normal(n, 2, m, n, 2)})


def norm(m: int) -> Tensors:
    return floats({"weight": normal(m, m), "bias": normal(m + 10, m)})


def named(**parts: Tensors) -> Tensors:
    return {
        f"{name.strip('_').replace('__', '.')}.{key}": value
        for name, part in parts.items()
        for key, value in part.items()
    }


def assembled(folder: Path, tensors: Tensors, steps: str, *options: str) -> tuple[Kan, str]:
    """Steps are given one a line, as in TOML; a line may hold settings after a semicolon."""
    text = "".join("[[step]]\n" + line.strip().replace("; ", "\n") + "\n" for line in steps.strip().splitlines())
    (folder / "layers.toml").write_text(text)
    loaded = checkpoint.load(save(folder, tensors))
    given = Options(KnownFacts.parse(options))
    actual = architecture_file.assemble(loaded, architecture_file.load(folder / "layers.toml"), given)
    given.finish(actual[1])
    return actual


def refuse(folder: Path, tensors: Tensors, steps: str, text: str, kind: type[ExportError] = ExportError) -> None:
    with pytest.raises(kind) as caught:
        assembled(folder, tensors, steps)
    assert text in caught.value.message


def even(z: Any) -> Any:
    """A LayerNorm without weights."""
    return (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)


def kinds(kan: Kan) -> list[str]:
    actual = []
    for layer in kan.layers:
        actual += [step.describe().kind for step in layer.pre_steps]
        actual += [layer.name or "lone"]
        actual += [step.describe().kind for step in layer.post_steps]
    return actual


def test_every_kind_of_step(tmp_path: Path) -> None:
    batch = floats(norm(4) | {"running_mean": normal(1, 4), "running_var": 1 + normal(2, 4) ** 2})
    linear = floats({"weight": normal(3, 2, 3), "bias": np.ones(2)})
    tensors = named(
        a=cheby(3, 4), bn=batch, act={"weight": np.full(1, 0.1, np.float32)}, b=fourier(4, 3), ln=norm(3), head=linear
    )
    steps = """
        select = "columns"; inputs = [4, 0, 2]; of = 5
        affine = "scaler"; scale = [1, 2.0, 3]; bias = [0, -1, 0.5]
        layer = "a"
        batchnorm = "bn"; epsilon = 1e-3
        prelu = "act"
        dropout = 0.5
        layer = "b"; family = "fourierkan"
        layernorm = "ln"
        function = "tanh"
        linear = "head"
    """
    kan, family = assembled(tmp_path, tensors, steps)
    assert family == "chebykan+fourierkan"
    assert kinds(kan) == ["select", "affine", "a", "affine", "prelu", "b", "layernorm", "function", "head"]
    assert (kan.n_inputs, kan.n_outputs, kan.notes) == (5, 2, ())
    x = normal(8, 7, 5)
    z = x[:, [4, 0, 2]] * [1, 2, 3] + [0, -1, 0.5]
    z, b = chebyshev(tensors["a.cheby_coeffs"], np.tanh(z)), floats(batch, "float64")
    z = (z - b["running_mean"]) / np.sqrt(b["running_var"] + 1e-3) * b["weight"] + b["bias"]
    z = np.where(z > 0, z, float(np.float32(0.1)) * z)
    waves = np.stack([f(z[:, :, None] * [1, 2]) for f in (np.cos, np.sin)])
    z = np.einsum("dbik,djik->bj", waves, tensors["b.fouriercoeffs"].astype(np.float64))
    z = even(z) * tensors["ln.weight"] + tensors["ln.bias"]
    expected = np.tanh(z) @ linear["weight"].T.astype(np.float64) + 1
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=1e-11)
    source = exported(tmp_path / "model.safetensors", architecture=tmp_path / "layers.toml").source
    assert source.family_reason == "given with --architecture"
    assert beside_forward(source) == {"layernorm_eps": "1e-5", "fourier_step": "1.0"}


def test_tensors_that_no_step_names_are_noted(tmp_path: Path) -> None:
    tensors = named(kan1=cheby(3, 4), ln1=norm(4), kan2=cheby(4, 2), scaler={"mean": np.zeros(3, np.float32)})
    tensors["kan1.extra"] = np.ones(2, np.float32)
    kan, _ = assembled(tmp_path, tensors, 'layer = "kan1"\nlayer = "kan2"')
    (note,) = kan.notes
    assert "4 tensors are not in the architecture file" in note
    assert "kan1.extra (2,)" in note
    kan, _ = assembled(tmp_path, tensors, 'layer = "kan1"\nlayernorm = "ln1"\nlayer = "kan2"')
    assert "2 tensors" in kan.notes[0]


def test_a_lone_layer_a_square_one_and_one_before(tmp_path: Path) -> None:
    kan, _ = assembled(tmp_path, cheby(3, 3), 'layer = ""\nfunction = "relu"')
    assert kinds(kan) == ["lone", "function"]
    kan, _ = assembled(tmp_path, named(ln=norm(3), kan=cheby(3, 3)), 'layernorm = "ln"\nlayer = "kan"')
    assert kinds(kan) == ["layernorm", "kan"]
    assert kan.edge_class == "B"
    same = named(norm=norm(3), kan=cheby(3, 3))
    kan, _ = assembled(tmp_path, same, 'layer = "kan"\nlayernorm = "norm"\nlayer = "kan"\nlayernorm = "norm"')
    assert kinds(kan) == ["kan", "layernorm"] * 2  # a module that is used twice


def test_the_width_is_that_of_the_first_step_and_the_type_that_of_all_tensors_in_use(tmp_path: Path) -> None:
    tensors = named(kan=cheby(2, 1))
    assert assembled(tmp_path, tensors, 'select = ""; inputs = [3, 1]\nlayer = "kan"')[0].n_inputs == 4
    assert assembled(tmp_path, tensors, 'function = "tanh"\nlayer = "kan"')[0].n_inputs == 2
    refuse(tmp_path, tensors, 'select = ""; inputs = [3]\nlayer = "kan"', "2 sources, but its input has 1")
    wide = named(kan={"cheby_coeffs": normal(0, 3, 2, 3)}, other=norm(2))
    assert assembled(tmp_path, wide, 'layer = "kan"')[0].dtype == "float64"
    narrow = named(kan=cheby(3, 2), other={"weight": normal(0, 4)})
    assert assembled(tmp_path, narrow, 'layer = "kan"')[0].dtype == "float32"


STEPS: list[tuple[str, type[ExportError], str]] = [
    ('layer = "nowhere"', InvalidKan, "step 1 (layer): no tensor has a name that starts with 'nowhere.'"),
    ('layer = "ln"', FamilyError, "the tensors under 'ln.' (bias, weight) do not fit a known KAN layer"),
    ('layer = "kan"\nlayernorm = "kan"', InvalidKan, "step 2 (layernorm): tensor 'kan.weight' is missing"),
    ('layer = "kan"\nbatchnorm = "ln"', InvalidKan, "step 2 (batchnorm): tensor 'ln.running_var' is missing"),
    ('layer = "kan"\nlinear = "ln"', InvalidKan, "step 2 (linear): tensor 'ln.weight' has shape (4,)"),
    ('layer = "kan"\nprelu = "bare"', InvalidKan, "step 2 (prelu): tensor 'bare.weight' is missing"),
    ('layer = "kan"\nlayernorm = "ln"', InvalidKan, "a normalization of 4 nodes gets 2"),
    ('layer = "kan"\nfunction = "maxout"', InvalidKan, "step 2 (function): unknown base activation 'maxout'"),
    ('layer = "kan"; family = "pykan"', FamilyError, "'pykan' has no reader for single layers"),
    ('layer = "kan"; family = "fourierkan"', InvalidKan, "step 1 (layer): layer kan: tensor 'kan.fouriercoeffs'"),
    ('layer = "kan"\naffine = ""; scale = [1]; bias = [0]', InvalidKan, "node scale has 1 values for 2 nodes"),
    ('layer = "kan"\naffine = ""; scale = [1, 2]; bias = [0]', InvalidKan, "differ in shape"),
    ('layer = "kan"\naffine = ""; scale = [nan, 2]; bias = [0, 0]', ExportError, "step 2 (affine)"),
    ('layer = "kan"\nselect = ""; inputs = [2]', InvalidKan, "column 2 is selected, expected columns below 2"),
    ('layer = "kan"\nlayer = "kan"', InvalidKan, "layer 1 has 3 sources, but its input has 2"),
    ('function = "tanh"', InvalidKan, "the network has no KAN layer"),
]


def test_steps_that_do_not_fit(tmp_path: Path) -> None:
    tensors = named(kan=cheby(3, 2), ln=norm(4), bare={"x": ONE, "y": ONE})
    for steps, kind, text in STEPS:
        refuse(tmp_path, tensors, steps, text, kind)


NO_STEPS = [
    ("", "[[step]] tables and no other key"),
    ("[[step]]\nlayer = 'a'\n[other]\nx = 1", "and no other key"),
    ("step = 3", "[[step]] tables and no other key"),
    ("step = []", "[[step]] tables and no other key"),
    ("[[step]]\nlayer = 'a", "is not valid TOML"),
    ("step = [" * 4000, "is not valid TOML"),
    ("[[step]]\nlayer = 'a'\nlayernorm = 'b'", "step 1 (layer, layernorm): expected exactly one of"),
    ("[[step]]\nattention = 'a'", "step 1 (attention): expected exactly one of"),
    ("step = [1]", "step 1 (1): expected exactly one of"),
    ("[[step]]\nlayer = 1", "layer is 1, expected a text"),
    ("[[step]]\nlayer = 'a'\nepsilon = 1", "step 1 (layer): unknown setting 'epsilon'"),
    ("[[step]]\nlayer = 'a'\nfamily = 1", "family is not a text"),
    ("[[step]]\nlayernorm = 'a'\nepsilon = -1", "epsilon is -1"),
    ("[[step]]\nlayernorm = 'a'\nepsilon = true", "epsilon is True"),
    ("[[step]]\nlayernorm = 'a'\nepsilon = nan", "epsilon is nan"),
    ("[[step]]\naffine = ''\nscale = [1]", "bias is not a list of numbers"),
    ("[[step]]\naffine = ''\nscale = []\nbias = [1]", "scale is not a list of numbers"),
    ("[[step]]\nselect = ''\ninputs = [1.5]", "inputs is not a list of numbers"),
    ("[[step]]\nselect = ''\ninputs = [true]", "inputs is not a list of numbers"),
    ("[[step]]\nselect = ''\ninputs = [-1]", "expected columns from 0 to 0"),
    ("[[step]]\nselect = ''\ninputs = [3]\nof = 3", "expected columns from 0 to 2"),
    ("[[step]]\nselect = ''\ninputs = [3]\nof = 'x'", "of is 'x', expected"),
    ("[[step]]\nselect = ''\ninputs = [123456789012]", "of is 123456789013, expected"),
]


def test_files_that_are_no_list_of_steps(tmp_path: Path) -> None:
    path, page = tmp_path / "layers.toml", "docs/reference/architecture-file.md describes its format"
    for text, outcome in NO_STEPS:
        path.write_text(text)
        with pytest.raises(OptionError) as caught:
            architecture_file.load(path)
        assert outcome in caught.value.message
        assert str(path) in caught.value.message
        assert caught.value.hint == f"correct the architecture file; {page}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(OptionError, match=r"cannot be read|is not a file"):
            architecture_file.load(path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe[[step]]")
    with pytest.raises(OptionError, match="is not valid TOML"):
        architecture_file.load(tmp_path / "bytes.toml")
    (tmp_path / "large.toml").write_text("#" * (architecture_file.MAX_FILE_BYTES + 1))
    with pytest.raises(OptionError, match="larger than"):
        architecture_file.load(tmp_path / "large.toml")


def test_the_page_names_every_kind_of_step_and_its_settings() -> None:
    table = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## Without an architecture file")[0], re.MULTILINE)
    )
    assert set(table) == set(KINDS)
    for kind, names in KINDS.items():
        assert all(f"{name} = " in table[kind] for name in names), kind


def test_modules_of_the_same_tensors(tmp_path: Path) -> None:
    """A weight and a bias, a vector and a number, each as the step says that it is."""
    tensors = named(kan=cheby(3, 4), n=norm(4), v={"g": norm(4)["weight"]}, s={"beta": np.full(1, 1.3, np.float32)})
    x = normal(7, 6, 3)
    z = chebyshev(tensors["kan.cheby_coeffs"], np.tanh(x))
    w, b, g, beta = (tensors[key].astype(np.float64) for key in ("n.weight", "n.bias", "v.g", "s.beta"))
    halves = z.reshape(-1, 2, 2)
    apart = (halves - halves.mean(axis=2, keepdims=True)) / np.sqrt(halves.var(axis=2, keepdims=True) + 1e-3)
    powers = np.exp(z)
    for step, expected in {
        'rmsnorm = "n"; epsilon = 1e-3': z / np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-3) * w + b,
        'rmsnorm = "v"': z / np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-6) * g,
        'groupnorm = "n"; groups = 2; epsilon = 1e-3': apart.reshape(z.shape) * w + b,
        'scaling = "n"': z * w + b,
        'scaling = "v"': z * g,
        'scaling = "s"': z * beta,
        'swish = "s"': z / (1 + np.exp(-beta * z)),
        'swish = "v"': z / (1 + np.exp(-g * z)),
        'prelu = "v"': np.where(z > 0, z, g * z),
        'function = "layernorm"': even(z),
        'function = "softmax"': powers / powers.sum(axis=1, keepdims=True),
        'function = "log_softmax"': z - np.log(powers.sum(axis=1, keepdims=True)),
    }.items():
        kan, _ = assembled(tmp_path, tensors, f'layer = "kan"\n{step}')
        np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=0, atol=1e-12, err_msg=step)


def test_the_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives what the file's own order gives."""
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^```console\nkanserve export (.*?)\n^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "layers.toml").write_text(blocks[0])
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    assert export_command.main(shlex.split(command)) == 0
    case = next(case for case in cases() if case.name == "chebykan-digits-layernorm")
    plain = export(Request(path=case.path, repository=tmp_path / "plain"))
    model = tmp_path / "models" / "digits" / "1" / "model.onnx"
    assert model.read_bytes() == (plain.directory / "model.onnx").read_bytes()
    for block in blocks[1:]:
        (tmp_path / "other.toml").write_text(block)
        assert architecture_file.load(tmp_path / "other.toml")
    # The checkpoint of the second example.
    loaded = checkpoint.load(save(tmp_path, named(_0=cheby(2, 4), _3=cheby(4, 1))))
    (tmp_path / "other.toml").write_text(blocks[1])
    kan, _ = architecture_file.assemble(
        loaded, architecture_file.load(tmp_path / "other.toml"), Options(KnownFacts.parse(()))
    )
    assert kinds(kan) == ["affine", "0", "function", "3"]
