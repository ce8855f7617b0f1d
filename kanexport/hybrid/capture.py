"""The module run as it is, in float64 where it can be, and what its layers saw."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid import derivatives
from kanexport.hybrid.faults import ForeignError, first_line, foreign_code, place
from kanexport.hybrid.lend import first_tensor, lent, replaced
from kanexport.hybrid.rewrites import DISTANCES, Rewritten
from kanexport.hybrid.wiring import PLAIN, Wiring, tensors, why_not
from kanexport.proof.evaluate import Jitter

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a submodule: the vectors it was given, what it gave, and how it was called."""

    name: str
    x: Array
    y: Array
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    at: int | str  # of the vectors among both
    part: int | None = None  # the position of `y` among the module's outputs; None if it is the only one

    @property
    def dtype(self) -> torch.dtype:
        """Of what it was given."""
        kind: torch.dtype = _get(self.args, self.kwargs, self.at).dtype
        return kind

    def again(self, x: Array) -> Call | None:
        """The same call with other vectors; None where the module does not take them."""
        args, kwargs = self.arguments(torch.from_numpy(x).to(self.dtype))
        with contextlib.suppress(ForeignError), foreign_code(), torch.no_grad():
            y = self.answer(self.module.forward(*args, **kwargs))
            return Call(self.name, x, array(y), self.module, args, kwargs, self.at, self.part)
        return None

    def answer(self, y: Any) -> torch.Tensor:
        """The tensor of the answer among the module's outputs."""
        tensor: torch.Tensor = y if self.part is None else list(tensors(y))[self.part][1]
        return tensor

    def arguments(self, given: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What it is called with, with other vectors."""
        return _put(self.args, self.kwargs, self.at, given)


@dataclass(frozen=True, slots=True)
class Oracle:
    """The module in the precision that it runs in: float64, or else float32."""

    module: nn.Module
    dtype: torch.dtype
    derives: bool = False  # takes derivatives in its forward

    @classmethod
    def of(cls, module: nn.Module, rows: Array) -> Oracle:
        """Raises InvalidKan where the module does not run at all, with its own words."""
        try:
            return cls._running(module, torch.float64, rows)
        except InvalidKan as error:
            if error.__cause__ is None:  # it runs, but gives nothing that can be served
                raise
            # The code may ask for float32 by name.
            return cls._running(module, torch.float32, rows)

    @classmethod
    def _running(cls, module: nn.Module, dtype: torch.dtype, rows: Array) -> Oracle:
        """In a type, without derivatives or with them. Raises InvalidKan."""
        with lent(module, dtype), derivatives.watched() as taken:
            try:
                cls(module, dtype).run(rows)
            except InvalidKan as error:
                if not any(words in error.message for words in derivatives.NO_GRAPH):
                    raise
                cls(module, dtype, derives=True).run(rows)
        return cls(module, dtype, derives=bool(taken))

    def run(
        self,
        rows: Array,
        watched: Mapping[str, nn.Module] | None = None,
        jitter: Jitter | None = None,
        *,
        nested: bool = False,
        tapped: Container[str] = (),
    ) -> tuple[Array, list[Call]]:
        """Rows [B, ...] to the output, and the calls of the watched submodules in the order
        in which they ended; `nested`: also those that one of them makes of another; `tapped`: modules
        inside of which others still run. To be
        run while the module is lent. `jitter` shakes the rows and what goes into those
        submodules. Raises InvalidKan with the module's own words."""
        watch = _Watch([], jitter, nested, tapped)
        x = torch.from_numpy(rows if jitter is None else jitter.shake(rows)).to(self.dtype)
        forwards = [(part, watch.forward(name, part)) for name, part in (watched or {}).items()]
        try:
            with foreign_code(), replaced(forwards), Rewritten(DISTANCES), torch.set_grad_enabled(self.derives):
                y = self.module(derivatives.ready(x) if self.derives else x)
        except ForeignError as foreign:
            where = place(foreign.error)
            count = "1 row" if len(x) == 1 else f"{len(x)} rows"
            raise InvalidKan(
                f"the module does not run on {count} of {_wiring(self.module).shown(x)}: {first_line(foreign.error)}"
                + (f" ({where})" if where else ""),
                hint="give rows as the module takes them: --example rows.npy (for several inputs an .npz with an array "
                "for each parameter of its forward), or --input-shape without the batch axis",
            ) from foreign.error
        return array(_one_tensor(y, len(x))), watch.calls

    def in_float32(self, rows: Array) -> Array | None:
        """What the module, lent in float64, gives in float32; None where it runs in that only, or not."""
        if self.dtype == torch.float32:
            return None
        with contextlib.suppress(InvalidKan), lent(self.module, torch.float32):
            return dataclasses.replace(self, dtype=torch.float32).run(rows)[0]
        return None


@dataclass
class _Watch:
    """Notes the calls of submodules, and shakes what goes into them if `jitter` is given."""

    calls: list[Call]
    jitter: Jitter | None
    nested: bool
    tapped: Container[str] = ()
    inside: bool = False

    def forward(self, name: str, part: nn.Module) -> Callable[..., Any]:
        """A forward that does what the module's own does, and notes it."""
        own = part.forward

        def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            at = first_tensor(args, kwargs)
            if at is None or (self.inside and not self.nested) or derivatives.hidden(_get(args, kwargs, at)):
                return own(*args, **kwargs)
            before, self.inside = self.inside, self.inside or name not in self.tapped
            try:
                return self._note(name, part, own, args, kwargs, at)
            finally:
                self.inside = before

        return forward

    def _note(
        self,
        name: str,
        part: nn.Module,
        own: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        at: int | str,
    ) -> Any:
        given = _get(args, kwargs, at)
        if self.jitter is not None and given.is_floating_point():
            shaken = torch.from_numpy(self.jitter.shake(array(given))).to(given.dtype)
            # What derivatives are taken by goes on being that.
            args, kwargs = _put(args, kwargs, at, given + (shaken - given).detach() if given.requires_grad else shaken)
        # Copied before and after, because either may be changed in place by what follows.
        x = array(_get(args, kwargs, at))
        y = own(*args, **kwargs)
        answer, place = _answer(y, given)
        if answer is not None and given.is_floating_point() and answer.is_floating_point():
            self.calls.append(Call(name, x, array(answer), part, args, kwargs, at, place))
        return y


def _answer(y: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, int | None]:
    """The answer, and its position among the tensors of a layer that also gives a loss or activations. The answer is
    the first tensor that has a vector for each given vector."""
    if isinstance(y, torch.Tensor):
        return y, None
    for at, (_, value) in enumerate(tensors(y)):
        if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[:-1] == given.shape[:-1]:
            return value, at
    return None, None


def _get(args: tuple[Any, ...], kwargs: dict[str, Any], at: int | str) -> Any:
    return args[at] if isinstance(at, int) else kwargs[at]


def _put(
    args: tuple[Any, ...], kwargs: dict[str, Any], at: int | str, value: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(at, int):
        return (*args[:at], value, *args[at + 1 :]), kwargs
    return args, kwargs | {at: value}


def _wiring(module: nn.Module) -> Wiring:
    wiring = getattr(module, "wiring", PLAIN)
    return wiring if isinstance(wiring, Wiring) else PLAIN


def _one_tensor(y: object, rows: int) -> torch.Tensor:
    """What a whole module gives: one floating-point tensor [B, ...]."""
    if not isinstance(y, torch.Tensor) or not y.is_floating_point() or y.ndim < 2:
        raise InvalidKan(why_not(y, rows), hint="wrap it in a module that returns the tensors to be served")
    return y


def array(value: torch.Tensor) -> Array:
    """A copy in float64."""
    return value.detach().to("cpu", torch.float64, copy=True).numpy()
