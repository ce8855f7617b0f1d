"""The module through torch.onnx, with a placeholder where a KAN layer was."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxscript
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid.capture import COLUMN, FLAT, KEEP, first_line, plain

DOMAIN = "kanexport"
PLACEHOLDER = "Layer"
OPSET = 18  # the oldest that the exporter writes without converting
EXAMPLE_ROWS = 3


@dataclass(frozen=True, slots=True)
class Hole:
    """What stands where a submodule was: which, how wide, and how it shapes its output."""

    index: int
    sources: int
    destinations: int
    form: str  # as `capture.form` says


def _shape(x: torch.Tensor, sources: int, destinations: int, form: str) -> tuple[Any, ...]:
    rows: Any = x.numel() // sources
    shapes = {
        KEEP: (*x.shape[:-1], destinations),
        FLAT: (rows, destinations),
        COLUMN: (rows, destinations, 1),
    }
    return shapes[form]


@torch.library.custom_op(f"{DOMAIN}::layer", mutates_args=())
def _layer(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_zeros(_shape(x, sources, destinations, form))


@_layer.register_fake
def _fake(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_empty(_shape(x, sources, destinations, form))


def _schema() -> onnx.defs.OpSchema:
    """The placeholder as an ONNX operator: it exists between the trace and the splice."""
    parameter, types = onnx.defs.OpSchema.FormalParameter, ["tensor(float)", "tensor(double)"]
    return onnx.defs.OpSchema(
        PLACEHOLDER,
        DOMAIN,
        1,
        inputs=[parameter("x", "T")],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", types, "")],
        attributes=[onnx.defs.OpSchema.Attribute("index", onnx.defs.OpSchema.AttrType.INT)],
    )


class _Placeholder(nn.Module):
    def __init__(self, hole: Hole) -> None:
        super().__init__()
        self.hole = hole

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        hole = self.hole
        found: torch.Tensor = _layer(x, hole.index, hole.sources, hole.destinations, hole.form)
        return found


def _translate(x: Any, index: int, sources: int, destinations: int, form: str) -> Any:
    return onnxscript.values.Opset(DOMAIN, 1).Layer(x, index=index)


def trace(module: nn.Module, rows: npt.NDArray[Any], holes: Mapping[str, Hole]) -> bytes:
    """The ONNX model of a module of rows' type, with a free batch axis and one
    placeholder per call of a hole. Raises InvalidKan with the exporter's first words."""
    hollow = copy.deepcopy(module)
    for name, hole in holes.items():
        parent, _, child = name.rpartition(".")
        setattr(hollow.get_submodule(parent), child, _Placeholder(hole))
    x = torch.from_numpy(np.resize(rows, (EXAMPLE_ROWS, *rows.shape[1:])))
    failures: list[Exception] = []
    # The second way follows Python more slowly but further: through len(x), for one.
    for strict in (False, True):
        try:
            model = _export(hollow.eval(), x, strict=strict)
        except Exception as error:  # torch.export raises whatever the module's code runs into
            failures.append(error)
            continue
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            return bytes(model.SerializeToString())
        failures.append(ValueError("it works for batches of one size only"))
    raise InvalidKan(
        f"torch.export cannot follow the module: {first_line(_root(failures[0]))}",
        hint="the forward must not branch on values nor fix the batch size; take sizes from x.shape, and leave out "
        "what is not tensor code",
    ) from failures[0]


def _export(module: nn.Module, x: torch.Tensor, *, strict: bool) -> Any:
    with warnings.catch_warnings(), torch.no_grad(), plain(x.dtype, compile_too=strict), _quiet():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch")},)
        exported = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=strict)
        if not onnx.defs.has(PLACEHOLDER, DOMAIN):
            onnx.defs.register_schema(_schema())
        table: dict[Any, Any] = {torch.ops.kanexport.layer.default: _translate}
        program = torch.onnx.export(
            exported, dynamo=True, opset_version=OPSET, custom_translation_table=table, verbose=False
        )
    assert program is not None
    return program.model_proto


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _quiet:
    """The exporter reports its steps to the log; a service's log is not the place."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
