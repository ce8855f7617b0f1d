"""Selection of edges on the command line: `--edge L:S:D`, or `--layer`, `--source` and `--destination`, with inputs and
outputs by name."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kanexport.shared.cli.suggest import advice
from kanserve.cli.options import InputError, option
from kanserve.types import Description

INDEX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Chosen:
    """Selected layers by index or name, and selected nodes by index. Empty means all."""

    layers: tuple[int | str, ...]
    sources: tuple[int, ...]
    destinations: tuple[int, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a selection. All but `--edge` may be repeated."""
    text = "only the edge of layer L from source S to destination D, each as in the next options"
    option(parser, "--edge", "L:S:D", text, "", shown="all")
    text = "only edges of this layer, by name or index; repeat the option for more layers"
    option(parser, "--layer", "LAYER", text, [], action="append", shown="all")
    text = "only edges from this node, by index, or feature, by name; repeat the option for more"
    option(parser, "--source", "NODE", text, [], action="append", shown="all")
    text = "only edges to this node, by index, or class, by name; repeat the option for more"
    option(parser, "--destination", "NODE", text, [], action="append", shown="all")


def edges(described: Description, args: argparse.Namespace) -> Chosen:
    """Selection of the options. Without --layer, a feature means the first layer and a class the last. Raises
    InputError."""
    if args.edge:
        if args.layer or args.source or args.destination:
            raise InputError(
                "--edge cannot be combined with --layer, --source or --destination",
                code="arguments-conflict",
                hint="remove --edge, or the other options",
            )
        parts = args.edge.split(":")
        if len(parts) != 3:
            raise InputError(
                f"edge {args.edge[:40]!r} is not LAYER:SOURCE:DESTINATION",
                code="edge-malformed",
                hint="write three parts, such as 0:2:1, or pass --layer, --source and --destination",
            )
        args.layer, args.source, args.destination = ([part] for part in parts)
    selected, last = layers(described, args.layer), len(described.layers) - 1
    sources, features = _nodes(described, "--source", args.source)
    destinations, classes = _nodes(described, "--destination", args.destination)
    named_layers = {at for at, named in ((0, features), (last, classes)) if named}
    if len(named_layers) > 1:
        raise InputError(
            f"no edge from {features[0]!r} in layer 0 to {classes[0]!r} in layer {last}, expected nodes of one layer",
            code="edge-between-layers",
            hint=f"query the paths with `kanserve edges`: --path {shlex.quote(features[0])} {shlex.quote(classes[0])}",
        )
    for at in named_layers:
        if any(layer not in (at, described.layers[at].name) for layer in selected):
            named = (features or classes)[0]
            raise InputError(
                f"{named!r} is a node of layer {at}, expected a node of the layers of --layer",
                code="node-of-other-layer",
                hint="remove --layer, or pass the index of the node",
            )
    return Chosen(selected or tuple(named_layers), sources, destinations)


def _nodes(described: Description, option: str, texts: Sequence[str]) -> tuple[tuple[int, ...], list[str]]:
    """Indices, and those texts that were names. Raises InputError."""
    first, last = described.layers[0], described.layers[-1]
    if option == "--source":
        names = [described.source(0, at) for at in range(first.sources)]
    else:
        names = [described.destination(len(described.layers) - 1, at) for at in range(last.destinations)]
    known = {name: at for at, name in enumerate(names) if name != str(at)}
    indices = set()
    for text in texts:
        if text not in known and not _is_index(text):
            raise InputError(
                f"{option} {text}: unknown node, expected an index" + (" or a name" if known else ""),
                code="node-unknown",
                hint=advice(text, known, what="names") or "pass an index, counted from 0",
            )
        indices.add(known[text] if text in known else int(text))
    return tuple(sorted(indices)), [text for text in texts if text in known]


def _is_index(text: str) -> bool:
    return text.isdecimal() and len(text) <= INDEX_DIGITS


def output(described: Description, option: str, text: str) -> int:
    """Index of an output, by its name or its index. Raises InputError."""
    return _one(option, text, [described.names.output(at) for at in range(described.output.shape[-1])])


def feature(described: Description, option: str, text: str) -> int:
    """Index of an input, by its name or its index. Raises InputError."""
    return _one(option, text, [described.names.feature(at) for at in range(described.input.shape[-1])])


def _one(option: str, text: str, names: Sequence[str]) -> int:
    if text in names:
        return names.index(text)
    if _is_index(text) and int(text) < len(names):
        return int(text)
    raise InputError(
        f"{option} {text}: unknown name, expected a name or an index from 0 to {len(names) - 1}",
        code="column-unknown",
        hint=advice(text, names, what="names"),
    )


def layers(described: Description, texts: Iterable[str]) -> tuple[int | str, ...]:
    """Layers that --layer selects. A value is a name if a layer has it (the children of a torch Sequential are named
    by numbers), otherwise an index."""
    names = {layer.name for layer in described.layers}
    return tuple(dict.fromkeys(int(text) if _is_index(text) and text not in names else text for text in texts))
