"""Control flow on tensors that do not depend on an input, such as `if step != 0` of a grid.

torch.export knows shapes and no values, so that each such condition stops it. If a condition concerns only weights,
its value is part of the model: a run of the module records it, and the trace replays it. A condition that an input
reaches is recorded too, and still stops the trace. Storage decides what an input reaches, so that views and changes
in place count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Batch = tuple[torch.Tensor, ...]

CONDITIONS = frozenset(
    {
        torch.Tensor.__bool__,
        torch.Tensor.__int__,
        torch.Tensor.__float__,
        torch.Tensor.__index__,
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.is_nonzero,
        torch.equal,
        torch.allclose,
    }
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a tensor in a run: the function, its value, and whether it depends on an input."""

    function: Callable[..., Any]
    value: Any
    reached: bool


def with_recorded_conditions(module: nn.Module, batches: Sequence[Batch]) -> nn.Module | None:
    """A lent module with recorded values of the conditions on its weights. None if it has no such conditions, or if
    they differ between batches of different sizes."""
    runs, texts = [], []
    for batch in batches:
        reach = _Reach(batch)
        recorder = _Recorder(reach)
        with torch.no_grad(), reach, recorder:
            module(*batch)
        runs.append(recorder.conditions)
        # As text, NaN equals NaN.
        texts.append([(item.function, item.reached, item.reached or repr(item.value)) for item in recorder.conditions])
    if all(condition.reached for condition in runs[0]) or any(text != texts[0] for text in texts):
        return None
    return _Replaying(module, runs[0])


class _Reach(TorchDispatchMode):
    """Storages that depend on an input."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._kept: dict[int, torch.UntypedStorage] = {}  # kept, so that no other gets its number
        self._mark(batch)

    def _mark(self, values: object) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                self._kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def reaches(self, value: object) -> bool:
        """Whether one of the tensors in a value depends on an input."""
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        return any(tensor.untyped_storage()._cdata in self._kept for tensor in tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; its results depend on an input if an argument does."""
        result = func(*args, **(kwargs or {}))
        if self.reaches((args, kwargs)):
            self._mark(result)
        return result


class _Recorder(TorchFunctionMode):
    """All conditions of a run, with their values."""

    def __init__(self, reach: _Reach) -> None:
        super().__init__()
        self._reach = reach
        self.conditions: list[Condition] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and record it if it is a condition."""
        result = func(*args, **(kwargs or {}))
        if func in CONDITIONS:
            self.conditions.append(Condition(func, result, self._reach.reaches((args, kwargs))))
        return result


class _Replay(TorchFunctionMode):
    """Replays the values of conditions in their order."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        super().__init__()
        self._waiting = list(conditions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The recorded value, if the condition does not depend on an input."""
        if func in CONDITIONS and self._waiting:
            condition = self._waiting.pop(0)
            if condition.function is func and not condition.reached:
                return condition.value
        return func(*args, **(kwargs or {}))


class _Replaying(nn.Module):
    """A module with recorded values of its conditions."""

    def __init__(self, module: nn.Module, conditions: Sequence[Condition]) -> None:
        super().__init__()
        self.module = module
        self._conditions = tuple(conditions)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The output of the module."""
        with _Replay(self._conditions):
            return self.module(*inputs)
