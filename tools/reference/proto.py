"""Parser of proto files: services, messages and enums with their comments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "proto"


@dataclass
class Field:
    """Field of a message, or value of an enum (then `kind` is empty)."""

    name: str
    kind: str
    number: int
    comment: str


@dataclass
class Block:
    """Message or enum. `name` has the names of the outer messages."""

    keyword: str
    name: str
    comment: str
    fields: list[Field] = field(default_factory=list)


@dataclass
class Rpc:
    """Method of a service."""

    service: str
    name: str
    request: str
    response: str
    comment: str


@dataclass
class Proto:
    """Contents of one file."""

    rpcs: list[Rpc] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


RPC = re.compile(r"rpc (\w+)\s*\((stream )?(\w+)\)\s*returns\s*\((stream )?(\w+)\)")
FIELD = re.compile(r"((?:repeated |optional )?(?:map<[^>]+>|[\w.]+)) (\w+) = (\d+)")
VALUE = re.compile(r"(\w+) = (-?\d+)")
NAMED = re.compile(r"(service|message|enum|oneof) (\w+)\s*\{")


def read(name: str) -> Proto:
    """The proto file of this name, such as "kan.proto"."""
    return parse((FOLDER / name).read_text())


def parse(source: str) -> Proto:
    """The services, messages and enums of a proto3 file. Options and reserved ranges are skipped."""
    proto = Proto()
    stack: list[tuple[str, str]] = []
    comment: list[str] = []
    source = re.sub(r"(rpc [^{;]*?)\s*\n\s*(?=returns|\()", r"\1 ", source)
    source = re.sub(r"(?m)^(\s*(?:service|message|enum|oneof) \w+)\s*\n\s*\{", r"\1 {", source)
    for line in source.splitlines():
        code, _, remark = line.partition("//")
        code = code.strip()
        if not code:
            comment = [*comment, remark.strip()] if remark else []
            continue
        text = " ".join(" ".join(comment).split()) or remark.strip()
        if match := NAMED.match(code):
            stack.append((match[1], match[2]))
            if match[1] in ("message", "enum"):
                proto.blocks.append(Block(match[1], _path(stack), text))
        elif match := RPC.match(code):
            streams = (match[2] or "", match[4] or "")
            proto.rpcs.append(Rpc(stack[-1][1], match[1], streams[0] + match[3], streams[1] + match[5], text))
        elif stack and stack[-1][0] == "enum" and (match := VALUE.match(code)):
            _block(proto, stack).fields.append(Field(match[1], "", int(match[2]), text))
        elif stack and (match := FIELD.match(code)):
            _block(proto, stack).fields.append(Field(match[2], match[1], int(match[3]), text))
        opened = code.count("{") - len(NAMED.findall(code))
        stack += [("", "")] * opened
        del stack[len(stack) - code.count("}") :]
        comment = []
    return proto


def _path(stack: list[tuple[str, str]]) -> str:
    return ".".join(name for keyword, name in stack if keyword in ("message", "enum"))


def _block(proto: Proto, stack: list[tuple[str, str]]) -> Block:
    name = _path(stack)
    return next(block for block in reversed(proto.blocks) if block.name == name)
