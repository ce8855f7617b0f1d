"""The module through torch.onnx, with a placeholder where a KAN layer was."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxscript
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid.faults import ForeignError, first_line, foreign_code, place, root
from kanexport.hybrid.forms import COLUMN, FLAT, KEEP
from kanexport.hybrid.lend import plain, replaced

DOMAIN = "kanexport"
PLACEHOLDER = "Layer"
OPSET = 18  # the oldest that the exporter writes without converting
EXAMPLE_ROWS = 3
# Signs in torch's words, and what they mean.
KINDS = {
    "data-dependent": "a branch or a size depends on the values of a tensor: ",
    "DynamicOutputShape": "the shape of a result depends on the values of a tensor: ",
    "No ONNX function found": "ONNX has no such operator: ",
}


@dataclass(frozen=True, slots=True)
class Hole:
    """What stands where a submodule was: which, how wide, and how it shapes its output."""

    index: int
    sources: int
    destinations: int
    form: str  # as `forms.form` says


def _output_shape(x: torch.Tensor, sources: int, destinations: int, form: str) -> tuple[Any, ...]:
    rows: Any = x.numel() // sources
    shapes = {
        KEEP: (*x.shape[:-1], destinations),
        FLAT: (rows, destinations),
        COLUMN: (rows, destinations, 1),
    }
    return shapes[form]


@torch.library.custom_op(f"{DOMAIN}::layer", mutates_args=())
def _layer(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_zeros(_output_shape(x, sources, destinations, form))


@_layer.register_fake
def _fake(x: torch.Tensor, index: int, sources: int, destinations: int, form: str) -> torch.Tensor:
    return x.new_empty(_output_shape(x, sources, destinations, form))


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


def _placeholder(hole: Hole) -> Callable[..., torch.Tensor]:
    """The forward of a module that is a hole."""
    index, sources, destinations, form = hole.index, hole.sources, hole.destinations, hole.form

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                output: torch.Tensor = _layer(value, index, sources, destinations, form)
                return output
        raise TypeError("a KAN layer is called without a tensor")

    return forward


def _as_onnx(x: Any, index: int, sources: int, destinations: int, form: str) -> Any:
    return onnxscript.values.Opset(DOMAIN, 1).Layer(x, index=index)


def trace(module: nn.Module, rows: npt.NDArray[Any], holes: Sequence[tuple[nn.Module, Hole]]) -> bytes:
    """The ONNX model of a lent module of rows' type, with a free batch axis and one
    placeholder per call of a hole. Raises InvalidKan with the exporter's first words and
    the line of the module's code."""
    x = torch.from_numpy(np.resize(rows, (EXAMPLE_ROWS, *rows.shape[1:])))
    failures: list[BaseException] = []
    with replaced((part, _placeholder(hole)) for part, hole in holes):
        # The second way follows Python more slowly but further: through len(x), for one.
        for strict in (False, True):
            try:
                with foreign_code():
                    model = _export(module, x, strict=strict)
            except ForeignError as foreign:
                failures.append(foreign.error)
                continue
            if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
                return bytes(model.SerializeToString())
            failures.append(ValueError("it works for batches of one size only"))
    raise _refusal(failures)


def _refusal(failures: Sequence[BaseException]) -> InvalidKan:
    """What the user can do something about: the kind of thing, torch's first words, and the line."""
    words = first_line(root(failures[0]))
    where = next(filter(None, map(place, failures)), "")
    kind = next((kind for sign, kind in KINDS.items() if sign in words), "")
    return InvalidKan(
        f"torch.export cannot follow the module: {kind}{words.partition(' (unhinted')[0]}"
        + (f" ({where})" if where else ""),
        hint="the forward must not branch on values nor fix the batch size; take sizes from x.shape, and leave out "
        "what is not tensor code",
    )


def _export(module: nn.Module, x: torch.Tensor, *, strict: bool) -> Any:
    with torch.no_grad(), plain(x.dtype, compile_too=strict), _quiet():
        shapes = ({0: torch.export.Dim("batch")},)
        with contextlib.redirect_stderr(io.StringIO()):  # where torch prints the graph that it did not finish
            exported = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=strict)
        if not onnx.defs.has(PLACEHOLDER, DOMAIN):
            onnx.defs.register_schema(_schema())
        table: dict[Any, Any] = {torch.ops.kanexport.layer.default: _as_onnx}
        program = torch.onnx.export(
            exported, dynamo=True, opset_version=OPSET, custom_translation_table=table, verbose=False
        )
    assert program is not None
    return program.model_proto


class _quiet:
    """The exporter reports its steps to the log; a service's log is not the place."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
