"""Hostile version directories by attack: each is the toy model, changed on disk. `outside` holds a secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from kanexport.contract import manifest as contract
from kanexport.contract.manifest import FileEntry
from tests.support import hostile_graphs as hostile
from tests.support import toy_model

SECRET = "secret"
Make = Callable[[Path, Path], None]


def listed(path: str) -> Make:
    """A file of the manifest that is outside the version directory."""

    def make(directory: Path, outside: Path) -> None:
        name = path.format(outside=outside)
        entry = FileEntry(path=name, size=(outside / SECRET).stat().st_size, sha256="0" * 64)
        toy_model.edit(directory, files=(*contract.load(directory).files, entry))

    return make


def instead(swap: Callable[[Path, Path], object], name: str = contract.MODEL_FILE) -> Make:
    """Something else where a file should be."""

    def make(directory: Path, outside: Path) -> None:
        (directory / name).unlink()
        swap(directory / name, outside)

    return make


def folder(steps: int) -> Make:
    """The version's folder, or the model's, is a link to one outside."""

    def make(directory: Path, outside: Path) -> None:
        place = directory if steps == 0 else directory.parent
        place.rename(outside / "moved")
        place.symlink_to(outside / "moved")

    return make


def graph(data: Callable[[], bytes], name: str = contract.MODEL_FILE) -> Make:
    """Another graph, properly listed."""
    return lambda directory, outside: hostile.replaced(directory, data(), name)


def external(location: str) -> Make:
    """A graph that keeps weights elsewhere."""
    return lambda directory, outside: hostile.replaced(
        directory, toy_model.graph(external=True, location=location.format(outside=outside))
    )


def linked_weights(directory: Path, outside: Path) -> None:
    """The version's own file for weights is a link."""
    hostile.replaced(directory, (outside / SECRET).read_bytes(), contract.WEIGHTS_FILE)
    instead(lambda path, place: path.symlink_to(place / SECRET), contract.WEIGHTS_FILE)(directory, outside)


def hidden_external(place: str) -> Callable[[], bytes]:
    """External data in a constant: of the graph, of a branch, of a function."""

    def data() -> bytes:
        tensor = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"../../../{SECRET}")
        constant = helper.make_node("Constant", [], ["c"], value=tensor)
        added = helper.make_node("Add", ["toy", "c"], ["y"])
        if place == "graph":
            return hostile.built([constant, added]).SerializeToString()
        model = onnx.load_model_from_string(hostile.branch() if place == "branch" else hostile.chained(1))
        nodes = model.graph.node[-1].attribute[0].g.node if place == "branch" else model.functions[0].node
        nodes.insert(0, constant)
        return bytes(model.SerializeToString())

    return data


PATHS: dict[str, Make] = {
    "a listed file above": listed("../../../" + SECRET),
    "a listed file by its whole path": listed("{outside}/" + SECRET),
    "a listed file through a folder": listed("x/../../" + SECRET),
    "a listed file without a name": listed(""),
    "a symbolic link": instead(lambda path, outside: path.symlink_to(outside / SECRET)),
    "a hard link": instead(lambda path, outside: os.link(outside / SECRET, path)),
    "a hard link as manifest": instead(lambda path, outside: os.link(outside / SECRET, path), contract.FILE_NAME),
    "a pipe": instead(lambda path, outside: os.mkfifo(path)),
    "a folder as file": instead(lambda path, outside: path.mkdir()),
    "a linked version": folder(0),
    "a linked model": folder(1),
    "weights above": external("../../../" + SECRET),
    "weights by their whole path": external("{outside}/" + SECRET),
    "weights in a folder that is not there": external("x/../../" + SECRET),
    "weights in a linked file": linked_weights,
    "weights of a constant": graph(hidden_external("graph")),
    "weights of a constant in a branch": graph(hidden_external("branch")),
    "weights of a constant in a function": graph(hidden_external("function")),
    "sparse weights": graph(hostile.sparse),
}
GRAPHS: dict[str, Make] = {
    "a loop": graph(hostile.endless),
    "a branch": graph(hostile.branch),
    "functions": graph(hostile.chained),
    "deep functions": graph(lambda: hostile.chained(2000)),
    "a foreign operator": graph(hostile.foreign),
    "noise": graph(hostile.random),
    "two copies of data": graph(hostile.dual),
    "data that is too short": graph(hostile.short),
    "an unknown field": graph(hostile.extra),
    "attributes in attributes": graph(hostile.nested),
    "a long chain": graph(hostile.long),
    "a size by a value": graph(hostile.by_value),
    "gigabytes of a constant": graph(hostile.huge),
    "gigabytes for a batch": graph(hostile.huge_batch),
    "no edges": graph(lambda: b"none", "edges_l0.onnx"),
    "edges with a loop": graph(hostile.endless, "edges_l1.onnx"),
    "edges of another layer": graph(lambda: toy_model.edge_graph(1), "edges_l0.onnx"),
}
