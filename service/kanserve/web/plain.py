"""A message as JSON the way Triton writes it: names as in the .proto, numbers as numbers, fields without a value too.

protobuf's own `json_format` writes 64-bit integers as strings, where Triton's clients expect numbers.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """Name of a field -> its value; messages that are not set are left out."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[field.name] = {key: _value(inner, value[key]) for key in value}
        elif field.is_repeated:
            found[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
