"""Control flow on tensors that do not depend on an input, such as `if step != 0` of a grid.

torch.export knows shapes and no values, so that each such question stops it. If a question concerns only weights,
its answer is part of the model: a run of the module records it, and the trace replays it. A question that an input
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

ASKED = frozenset(
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
class Answer:
    """The result of one condition on a tensor: the condition, its value, and whether it depends on an input."""

    question: Callable[..., Any]
    value: Any
    reached: bool

    def shown(self) -> tuple[object, ...]:
        """The text by which two runs are compared; NaN equals NaN."""
        return self.question, self.reached, None if self.reached else repr(self.value)


def with_recorded_answers(module: nn.Module, batches: Sequence[Batch]) -> nn.Module | None:
    """A lent module with recorded values of the conditions on its weights. None if it has no such conditions, or if
    they differ between batches of different sizes."""
    first, *others = (_answers(module, batch) for batch in batches)
    if all(answer.reached for answer in first):
        return None
    alike = all([answer.shown() for answer in first] == [answer.shown() for answer in other] for other in others)
    return _AnsweredModule(module, first) if alike else None


def _answers(module: nn.Module, batch: Batch) -> list[Answer]:
    reach = _Reach(batch)
    notes = _Notes(reach)
    with torch.no_grad(), reach, notes:
        module(*batch)
    return notes.answers


class _Reach(TorchDispatchMode):
    """Storages that depend on an input."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._kept: dict[int, torch.UntypedStorage] = {}  # kept, so that no other gets its number
        for tensor in batch:
            self._mark(tensor)

    def _mark(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._kept[storage._cdata] = storage

    def reaches(self, value: object) -> bool:
        """Whether one of the tensors in a value depends on an input."""
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        return any(tensor.untyped_storage()._cdata in self._kept for tensor in tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator; its results depend on an input if an argument does."""
        result = func(*args, **(kwargs or {}))
        if self.reaches((args, kwargs)):
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._mark(leaf)
        return result


class _Notes(TorchFunctionMode):
    """All conditions of a run, with their values."""

    def __init__(self, reach: _Reach) -> None:
        super().__init__()
        self._reach = reach
        self.answers: list[Answer] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and record it if it is a condition."""
        result = func(*args, **(kwargs or {}))
        if func in ASKED:
            self.answers.append(Answer(func, result, self._reach.reaches((args, kwargs))))
        return result


class _Replay(TorchFunctionMode):
    """Replays the values of conditions in their order."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        super().__init__()
        self._waiting = list(answers)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The recorded value, if the condition does not depend on an input."""
        if func in ASKED and self._waiting:
            answer = self._waiting.pop(0)
            if answer.question is func and not answer.reached:
                return answer.value
        return func(*args, **(kwargs or {}))


class _AnsweredModule(nn.Module):
    """A module with recorded values of its conditions."""

    def __init__(self, module: nn.Module, answers: Sequence[Answer]) -> None:
        super().__init__()
        self.module = module
        self._answers = tuple(answers)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The output of the module."""
        with _Replay(self._answers):
            return self.module(*inputs)
