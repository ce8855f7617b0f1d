"""Page docs/reference/grpc-api.md, from the proto files."""

from __future__ import annotations

from collections.abc import Iterator

from kanserve.grpc_api.inference import InferenceService
from kanserve.grpc_api.services import implementation
from tools.reference import proto
from tools.reference.tables import table

HEAD = """# gRPC API

This page lists the gRPC methods and the messages of `kanserve.v1.KanService`, for engineers who write a client.

`make reference` writes this file from `proto/`. The package `kanserve` has a
[Python client](../guides/clients/python.md). [Other languages](../guides/clients/other-languages.md) generate one.
"""
OIP = """## inference.GRPCInferenceService

These methods are those of Triton and of the Open Inference Protocol. `proto/grpc_service.proto` has their messages.
[Triton compatibility](triton-compatibility.md) lists the differences.
"""
KAN = """## kanserve.v1.KanService

Requests and responses are the messages [below](#messages). Arrays are packed in C order, and numbers are little-endian.
"""
INFER = ("ModelInfer", "ModelStreamInfer")  # `InferenceService` does not have these


def page() -> str:
    """The page."""
    kan, triton = proto.read("kan.proto"), proto.read("grpc_service.proto")
    rows = [rpc for rpc in triton.rpcs if rpc.name in INFER or implementation(InferenceService, rpc.name)]
    return (
        "\n".join(
            [
                HEAD,
                OIP,
                table(
                    ("method", "request", "response"),
                    ((f"`{r.name}`", f"`{r.request}`", f"`{r.response}`") for r in rows),
                ),
                KAN,
                *_methods(kan),
                "## Messages\n",
                *_messages(kan),
            ]
        ).rstrip()
        + "\n"
    )


def _methods(kan: proto.Proto) -> Iterator[str]:
    yield table(
        ("method", "request", "response", "meaning"),
        ((f"`{r.name}`", f"`{r.request}`", f"`{r.response}`", r.comment) for r in kan.rpcs),
    )


def _messages(kan: proto.Proto) -> Iterator[str]:
    for block in kan.blocks:
        yield f"### {block.name}\n"
        if block.comment:
            yield f"{block.comment}\n"
        if not block.fields:
            yield "The message has no fields.\n"
        elif block.keyword == "enum":
            yield table(("value", "number", "meaning"), ((f"`{f.name}`", f.number, f.comment) for f in block.fields))
        else:
            yield table(
                ("field", "type", "number", "meaning"),
                ((f"`{f.name}`", f"`{f.kind}`", f.number, f.comment) for f in block.fields),
            )
