"""C code of every golden checkpoint: compiled, and compared with the outputs of the library that trained it."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kanexport.ccode import compiled, generate
from kanexport.ccode.generate import Facts
from kanexport.errors import InvalidKan, OptionError, RepositoryError, VerificationFailed
from kanexport.shared.manifest import SourceFile
from kanexport.shared.naming import Names
from kanexport.verify import attribution
from tests.support import c_code
from tests.support.c_code import STRICT
from tests.support.golden_cases import Case, cases, network, relative_error
from tests.support.tiers import spread

SMALL = "pykan-hello-adapted"
FACTS = Facts(
    name="net", version=3, family="pykan", files=(SourceFile(name="model_state", sha256="ab" * 32),),
    names=Names(("len*/gth", "w"), ("m", ""), ("price",), "a /* test */\nof"), tolerance=1e-5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def compiler() -> None:
    """These tests compile."""
    c_code.needs("cc")


@spread("case", cases(), 4, ids=lambda case: case.name)
def test_outputs_match_the_library_and_the_code_has_no_warnings(case: Case, tmp_path: Path, state_error) -> None:
    files, reference = c_code.code(case.name), case.reference()
    kan = network(case.name)
    with compiled.program(files.code, kan.n_inputs, kan.n_outputs, ["cc", "-Wall", "-Wextra", "-Werror"]) as program:
        y, _ = program.run(reference["x"].astype(np.float32))
    for group, rows in case.facts["row_groups"].items():
        error = relative_error(y[rows], reference["y64"][rows])
        state_error("golden outputs of C, relative", error, f"{case.name}, {group}")
        assert error <= case.tolerance, group
    command = ["cc", *STRICT, "-DNET_NO_EXPLAIN", "-fsyntax-only", "net.c"]
    folder = c_code.written(files, tmp_path)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert {zone.name for zone in files.zones} >= {"inside", "knots", "far", "nonfinite", "single"}
    assert "malloc" not in files.code.text
    assert files.contributes == ("net_explain" in files.code.header)


def test_contributions_are_those_of_the_graph() -> None:
    files, kan = c_code.code(SMALL), network(SMALL)
    x = np.random.default_rng(0).uniform(-0.9, 0.9, size=(20, 2)).astype(np.float32)
    with compiled.program(files.code, 2, 1, ["cc"]) as program:
        y, contributions = program.run(x)
    base = float(re.search(r"net_base\[1\] = \{(.*?)f\}", files.code.text)[1])
    np.testing.assert_allclose(contributions.sum(axis=2) + base, y, atol=1e-5)
    knots = next(term.basis.knots() for term in kan.layers[0].terms if term.functions > 1)
    anchor = attribution.anchor(kan, (knots[:, 0] + knots[:, -1]) / 2)
    assert anchor.base[0] == pytest.approx(base, abs=1e-6)
    assert files.explained == "middle of each input's grid"


def test_comments_name_the_model_and_cannot_end_early_and_the_reference_row_has_no_contributions() -> None:
    row = [0.25, -0.5]
    files = c_code.generated(network(SMALL), replace(FACTS, mean=row))
    assert files.explained == "mean of the baseline rows"
    with compiled.program(files.code, 2, 1, ["cc"]) as program:
        _, contributions = program.run(np.array([row], dtype=np.float32))
    np.testing.assert_allclose(contributions, 0, atol=1e-6)
    header = files.code.header
    assert "net, version 3: a / * test * /?of" in header
    assert "model_state, sha256 abab" in header
    assert "x[0]  len* /gth [m]" in header
    assert "y[0]  price" in header
    assert header.count("*/") == header.count("/*")


def test_code_that_differs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kan = network(SMALL)
    other = replace(kan, layers=(*kan.layers[:-1], replace(kan.layers[-1], bias=kan.layers[-1].bias + 0.01)))
    write = generate.network
    monkeypatch.setattr(generate, "network", lambda _, *others: write(other, *others))
    with pytest.raises(VerificationFailed, match=r"net\.c differs from the checkpoint on inside rows"):
        c_code.generated(kan, FACTS)


def test_without_a_compiler_the_code_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-here")
    assert compiled.compiler() == []
    files = c_code.generated(network(SMALL), FACTS)
    assert files.compiler == ""
    assert files.verified.startswith("not compiled: no C compiler")
    assert set(files.files) == {"net.c", "net.h"}
    monkeypatch.setenv("CC", "cc -m64")
    assert compiled.compiler() == ["cc", "-m64"]
    monkeypatch.delenv("CC")
    assert compiled.compiler() == ["cc"]


def test_names_types_and_folders_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    for name in ("net", "Net_2", "x" * 40):
        generate.check(tmp_path, name, "float32")
    proposals = {"3d": "kan_model", "my-net": "my_net", "while": "kan_model"}
    for name in (*proposals, "", "x" * 41, "café"):
        with pytest.raises(OptionError) as caught:
            generate.check(tmp_path, name, "float32")
        assert caught.value.code == "c-name-invalid"
        assert caught.value.hint.startswith(f"pass --name {proposals.get(name, '')}")
    with pytest.raises(OptionError, match="--c needs float32"):
        generate.check(tmp_path, "net", "float64")
    (tmp_path / "taken").write_text("")
    with pytest.raises(OptionError, match="expected a folder"):
        generate.check(tmp_path / "taken", "net", "float32")
    with pytest.raises(RepositoryError, match="cannot be written"):
        c_code.code(SMALL).write(tmp_path / "taken" / "below")


def test_an_unsupported_operator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(generate.operators.ELEMENTS, "Tanh")
    kan = network("efficient-kan-wine-update-grid")
    with pytest.raises(InvalidKan, match="the operator Tanh has no C code") as caught:
        generate.network(kan, ("x", "layer1_in"), None)
    assert caught.value.code == "c-operator-unsupported"
