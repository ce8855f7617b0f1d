"""Which edges a command means: `--layer`, `--source`, `--destination`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from kanserve.client.description import Description
from kanserve.console.common import index

INDEX_DIGITS = 9


def add_options(parser: argparse.ArgumentParser) -> None:
    """Each may be repeated."""
    several: dict[str, Any] = {"action": "append", "default": [], "metavar": "N"}
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="LAYER",
        help="only this layer, by its name or its index (may be repeated; default: all)",
    )
    parser.add_argument("--source", type=index, help="only edges from this node (may be repeated)", **several)
    parser.add_argument("--destination", type=index, help="only edges to this node (may be repeated)", **several)


def layers(described: Description, texts: Iterable[str]) -> tuple[int | str, ...]:
    """What --layer means: a name, if a layer has it (the children of a torch Sequential are named by numbers), else an
    index."""
    names = {layer.name for layer in described.layers}
    return tuple(
        dict.fromkeys(
            int(text) if text.isdecimal() and len(text) <= INDEX_DIGITS and text not in names else text
            for text in texts
        )
    )


def unique(indices: Iterable[int]) -> tuple[int, ...]:
    """In order, each once."""
    return tuple(sorted(set(indices)))
