"""Every field of the manifest reaches a client, or is listed here with the reason why not."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

from kanexport.manifest import Manifest
from kanserve.pb import kan_pb2

PRIVATE = {
    "format": "the server understands it or does not load it",
    "created": "in the repository, for people who look there",
    "opset": "the graph's own business",
    "files": "integrity was checked at load; the graph's sha256 is the digest",
    "reference": "rows of the user's data, used for the proof at load",
    "source.family_reason": "said when exporting",
    "source.dtype": "input and output have their datatypes",
    "verification.runtime": "the serving runtime is in kanserve_build_info",
    "layers.node_tensor": "inside the graph",
    "layers.edges_file": "inside the repository",
    "layers.edges_tensor": "inside the graph",
}
RENAMED = {
    "name": "model_name",
    "version": "model_version",
    "exporter_version": "source.exporter_version",
    "source.family": "family",
}


def fields(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of the leaves."""
    for name, hint in typing.get_type_hints(kind).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner) and prefix + name not in PRIVATE:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def messages(descriptor: typing.Any, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        yield prefix + field.name
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from messages(field.message_type, f"{prefix}{field.name}.")


def test_every_field_is_exposed_or_private_for_a_reason() -> None:
    found = set(fields(Manifest))
    exposed = set(messages(kan_pb2.DescribeModelResponse.DESCRIPTOR))
    assert set(PRIVATE) <= found
    assert {RENAMED.get(name, name) for name in found - set(PRIVATE)} <= exposed
