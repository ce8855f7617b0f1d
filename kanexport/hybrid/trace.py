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
import torch
import torch.onnx.ops
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid.capture import COLUMN, FLAT, KEEP, first_line

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


class _Placeholder(nn.Module):
    def __init__(self, hole: Hole) -> None:
        super().__init__()
        self.hole = hole

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        rows: Any = x.numel() // self.hole.sources
        m = self.hole.destinations
        shape = {KEEP: (*x.shape[:-1], m), FLAT: (rows, m), COLUMN: (rows, m, 1)}[self.hole.form]
        found: torch.Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{PLACEHOLDER}", (x,), {"index": self.hole.index}, dtype=x.dtype, shape=shape, version=1
        )
        return found


def trace(module: nn.Module, rows: npt.NDArray[Any], holes: Mapping[str, Hole]) -> bytes:
    """The ONNX model of a module of rows' type, with a free batch axis and one
    placeholder per call of a hole. Raises InvalidKan with the exporter's first words."""
    hollow = copy.deepcopy(module)
    for name, hole in holes.items():
        parent, _, child = name.rpartition(".")
        setattr(hollow.get_submodule(parent), child, _Placeholder(hole))
    x = torch.from_numpy(np.resize(rows, (EXAMPLE_ROWS, *rows.shape[1:])))
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                hollow.eval(),
                (x,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        raise InvalidKan(
            f"torch.onnx cannot follow the module: {first_line(_root(error))}",
            hint="the forward must not branch on values or fix the batch size; wrap what does in Python outside",
        ) from error
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


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
