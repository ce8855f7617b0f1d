"""The private descriptor pool, and the classes made from it."""

from __future__ import annotations

import functools
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
    """The pool that holds all of `proto/`."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    private = descriptor_pool.DescriptorPool()
    for file in files.file:  # protoc writes a file after what it imports
        private.AddSerializedFile(file.SerializeToString())
    return private


def expose(file_name: str) -> dict[str, object]:
    """The names that a `_pb2` module of this file defines: DESCRIPTOR, messages, enums, enum values."""
    file = pool().FindFileByName(file_name)
    names: dict[str, object] = {"DESCRIPTOR": file}
    for name, message in file.message_types_by_name.items():
        names[name] = message_factory.GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    return names
