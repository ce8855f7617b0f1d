"""Parameters of a request and of its answer, as the messages have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanserve.nouns import Word


def say(message: Any, parameters: Mapping[str, Word]) -> None:
    """Put them into a message's map."""
    for name, value in parameters.items():
        kind = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "string"
        setattr(message[name], f"{kind}_param", value)


def said(message: Mapping[str, Any]) -> dict[str, Word]:
    """Those of a message's map; one without a value is not there."""
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in message.items()}
    return {name: getattr(message[name], kind) for name, kind in kinds.items() if kind is not None}
