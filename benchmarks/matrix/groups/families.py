"""Networks of each installed KAN library, evaluated eagerly by the library and compared with their export."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import itertools
import sys
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.matrix import contestants, module
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import ONE_RUN, TOLERANCE, Truth
from kanexport.errors import ExportError
from kanexport.shared.manifest import MODEL_FILE
from kanserve.contrib.bench.entrants import Absent

FAMILIES, LIBRARY, OWN_EXPORT = "families", "the library in torch", "the library's own ONNX export"
TABLE = Path(__file__).parents[1] / "families.toml"
WIDTHS, BATCHES = (64, 64, 10), (1, 64)
FEW = ("efficient-kan", "inkan", "flashkan")
WHERE = "--libraries names a folder with clones, as owner/name"
Shaping = Callable[[torch.Tensor], torch.Tensor]


class Missing(Exception):
    """A library is absent or fails; the message has the reason."""


def families(quick: bool) -> Iterator[Case]:
    """In the table's order."""
    for name, facts in table().items():
        if not quick or name in FEW:
            yield Case(FAMILIES, name, BATCHES, functools.partial(make, name, facts))


def table() -> dict[str, dict[str, Any]]:
    """By family."""
    with TABLE.open("rb") as file:
        families = tomllib.load(file)
    stand_ins = families.pop("stand_ins")
    return {
        name: {"stand_ins": stand_ins, "options": [], "tolerance": TOLERANCE, **facts}
        for name, facts in families.items()
    }


def make(name: str, facts: Mapping[str, Any], work: Work) -> Made:
    """The library and its export; no system if the library is absent or its export fails."""
    x = module.rows(WIDTHS[0], max(BATCHES))
    try:
        names = _names(facts, work.libraries)
        network = library(facts["make"], names)
        truth = Truth({"x": x}, _exactly(network, x), "the library in float64")
        checkpoint = module.save(network, work.folder)
        request: dict[str, Any] = {"family": name, "options": tuple(facts["options"])}
        version = contestants.exported(work, checkpoint, **request)
        kernel = contestants.by_kernel(work, checkpoint, truth, **request)
    except (Missing, ExportError) as error:
        why = str(error) if isinstance(error, Missing) else f"it was not exported: {error.message}"
        return Made((), {"x": x}, (Absent(name, why),))
    every = [
        contestants.served(work, version, truth),
        contestants.one_graph(version / MODEL_FILE, truth, ONE_RUN, "the exported graph"),
        kernel,
        contestants.eager(network, dataclasses.replace(truth, tolerance=facts["tolerance"]), LIBRARY),
    ]
    if "export" in facts:
        path = work.folder / f"{name}.onnx"
        with redirect_stdout(io.StringIO()):
            names[facts["export"]](network, str(path))
        every.append(contestants.one_graph(path, truth, OWN_EXPORT, "what the library exports"))
    return Made.of(every, truth.feeds)


def library(expression: str, names: Mapping[str, Any]) -> nn.Module:
    """The network that the table describes, with weights as after some training. Raises Missing."""
    torch.manual_seed(0)
    try:
        with redirect_stdout(io.StringIO()):
            network = eval(expression, {"nn": nn, "stack": stack, "columns": columns, "tokens": tokens, **names})
            network = network.eval()
            network(torch.zeros(2, WIDTHS[0]))
    except Exception as error:  # others' code
        raise Missing(f"the library does not run here: {type(error).__name__}: {error}") from error
    module: nn.Module = network
    _move(module)
    return module


def _exactly(network: nn.Module, x: Any) -> Any:
    try:
        return module.exactly(network, x)
    except Exception as error:  # others' code
        raise Missing(f"the library does not run in float64: {type(error).__name__}: {error}") from error


def _names(facts: Mapping[str, Any], libraries: Path | None) -> dict[str, Any]:
    """The names that the library's module defines."""
    if "module" in facts:
        try:
            return vars(importlib.import_module(facts["module"]))
        except ImportError as error:
            raise Missing(f"{facts['module']} is not installed ({error})") from error
    clone = None if libraries is None else libraries / facts["repository"]
    if clone is None or not (clone / facts["file"]).is_file():
        raise Missing(f"{facts['repository']} is not here; {WHERE}")
    # The oracle knows how to take a file that would train, or that names packages without need.
    from tools.oracle import public_upstream

    known = set(sys.modules)
    try:
        if "bare" in facts:
            sys.modules[facts["bare"]] = bare = types.ModuleType(facts["bare"])
            bare.__path__ = [str(clone / facts["bare"])]
        loaded = public_upstream.load(
            clone / facts.get("root", "."),
            clone / facts["file"],
            definitions=facts.get("definitions", False),
            stand_ins=facts["stand_ins"],
        )
        return dict(vars(loaded))
    except Exception as error:  # others' code
        raise Missing(f"{facts['repository']} cannot be read here: {type(error).__name__}: {error}") from error
    finally:
        # Several libraries have files of the same name.
        for name in set(sys.modules) - known:
            if str(clone) in str(getattr(sys.modules[name], "__file__", "")) or name == facts.get("bare"):
                del sys.modules[name]
        sys.path[:] = [path for path in sys.path if not path.startswith(str(clone))]


def stack(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    """Layers one after the other."""
    return nn.Sequential(*(layer(n, m) for n, m in itertools.pairwise(WIDTHS)))


def columns(network: nn.Module) -> nn.Module:
    """Adapts a library that expects each number in a separate row."""
    return _between(network, lambda x: x.unsqueeze(-1), lambda y: y.squeeze(-1))


def tokens(network: nn.Module) -> nn.Module:
    """Adapts a library that expects one token per row."""
    return _between(network, lambda x: x[:, None], lambda y: y[:, 0])


def _between(network: nn.Module, before: Shaping, after: Shaping) -> nn.Module:
    network.register_forward_pre_hook(lambda _, arguments: (before(arguments[0]),))
    network.register_forward_hook(lambda _, __, result: after(result))
    return network


@torch.no_grad()
def _move(network: nn.Module) -> None:
    """As after some training: no weight stays as it was at first, and values keep their size."""
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        if value.requires_grad and value.is_floating_point() and value.numel() > 1 and 0 not in value.stride():
            spread = float(value.std()) or 0.1
            value += 0.1 * spread * torch.randn(value.shape, generator=generator)
