"""pykan weights without a config: the same graph if nothing is missing, else an error; symbolic functions by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kanexport.errors import FamilyError, InvalidKan, OptionError, UnknownFunction
from kanexport.formats import checkpoint
from kanexport.pipeline import Request, Result, export
from tests.support.small_checkpoints import refused, save
from tests.support.tiers import spread

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]


def bare(tmp_path: Path, tensors: dict[str, Any], prefix: str = "") -> Path:
    """A file that has only the weights."""
    return save(tmp_path, {prefix + key: value for key, value in tensors.items()})


def run(path: Path, tmp_path: Path, *options: str, **more: Any) -> Result:
    return export(Request(path=path, repository=tmp_path / "models", name="m", options=options, force=True, **more))


def graph(result: Result) -> bytes:
    return (result.directory / "model.onnx").read_bytes()


@spread("name", ["pykan-hello-adapted", "pykan-diabetes", "pykan-pruned-edges", "pykan-ellipj-float64"], 2)
def test_weights_alone_give_the_same_graph(golden: Golden, tmp_path: Path, name: str) -> None:
    path, options = golden(name)
    expected = graph(run(path, tmp_path, *options))
    for prefix in ("", "odefunc.kan."):
        result = run(bare(tmp_path, checkpoint.load(path).tensors, prefix), tmp_path, *options)
        assert graph(result) == expected
        given = {option.partition("=")[0] for option in options}
        assert result.manifest.source.options_assumed.keys() >= {"base_fun", "symbolic_enabled"} - given
        assert any("have no pykan config" in note for note in result.manifest.notes)


def test_products_follow_from_the_widths(pykan: Any, tmp_path: Path) -> None:
    """[2, (3 sums, 2 products), (1, 1)]: with factors of two assumed, of three if given."""
    for arity in (2, 3):
        toy = pykan([2, (3, 2), (1, 1)], arity=arity)
        expected = graph(run(toy.write(tmp_path), tmp_path))
        path = bare(tmp_path, toy.tensors)
        result = run(path, tmp_path, *([f"mult_arity={arity}"] if arity != 2 else []))
        assert graph(result) == expected
        assert ("mult_arity" in result.manifest.source.options_assumed) == (arity == 2)
    assert isinstance(error := refused(path, "mult_arity=9"), InvalidKan)
    assert "layer 0 has 9 destinations and 5 nodes" in error.message
    assert "mult_arity" in error.hint


def test_symbolic_edges_need_their_names(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1])
    toy.symbolic(0, 1, 2, "sin", (1, 0.5, 2, 0))
    toy.symbolic(1, 0, 0, "x^2", (1, 0, 1, 0))
    expected = graph(run(toy.write(tmp_path), tmp_path))
    path = bare(tmp_path, toy.tensors)
    refused(
        path,
        kind=OptionError,
        said=["2 symbolic edges (layer,source,destination) have no function", "(0,1,2), (1,0,0)"],
        hint="--symbolic 0,1,2=NAME --symbolic 1,0,0=NAME",
    )
    assert graph(run(path, tmp_path, symbolic=("0,1,2=sin", "1,0,0=x^2"))) == expected
    off = run(path, tmp_path, "symbolic_enabled=false")
    assert any("symbolic edges are off" in note for note in off.manifest.notes)


def test_one_of_several_models_is_chosen_by_its_prefix(pykan: Any, tmp_path: Path) -> None:
    first, second = pykan([2, 3, 1], seed=1).tensors, pykan([3, 1], seed=2).tensors
    both = {f"a.{key}": value for key, value in first.items()} | {f"b.{key}": value for key, value in second.items()}
    path = bare(tmp_path, both)
    refused(path, kind=FamilyError, said="under 2 prefixes: 'a.', 'b.'")
    assert run(path, tmp_path, "prefix=b.").manifest.widths == (3, 1)
    refused(path, "prefix=c.", said="under 2 prefixes")
    path = bare(tmp_path, {k: v for k, v in both.items() if k[0] == "a"} | {"fc.weight": np.ones(3)})
    refused(path, said="such as 'fc.weight'", hint="--option prefix=a.")
    assert run(path, tmp_path, "prefix=a.").manifest.widths == (2, 3, 1)


def test_an_unknown_symbolic_function_names_its_edge(pykan: Any, tmp_path: Path) -> None:
    for name in ("sinx", "x']=1;import os#", "anonymous", "", "\x1b[31m"):
        toy = pykan([2, 3, 1])
        toy.symbolic(1, 2, 0, name, (1, 0, 1, 0))
        error = refused(toy.write(tmp_path), kind=UnknownFunction, said="(1,2,0)")
        assert repr(name) in error.message
        assert "gaussian" in error.hint


def test_a_symbolic_name_that_is_an_object_names_its_edge(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([1, 1])
    toy.symbolic(0, 0, 0, "OBJECT", (1, 0, 1, 0))
    config = yaml.safe_dump(toy.config).replace("OBJECT", "!!python/object/apply:os.system [x]")
    refused(toy.write(tmp_path, config), kind=UnknownFunction, said="(0,0,0)")


def test_symbolic_settings_must_fit_the_layer(pykan: Any, tmp_path: Path) -> None:
    names: list[Any] = [[["0"]], [["0", "0"], ["0"]], "0", [["0", "0", "0"]] * 2, {"a": 1}]
    for key, value in (*(("symbolic.funs_name.0", name) for name in names), ("symbolic_enabled", "yes please")):
        toy = pykan([2, 2])
        toy.config[key] = value
        assert key in refused(toy.write(tmp_path)).message
