"""Decompression bombs: small compressed messages that expand to large ones."""

from __future__ import annotations

import gzip

import grpc

from tests.support.server_process import INFERENCE, Server
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import SUCCESS, mib, sample, settled, toys

MIB = 2**20


def ask(server: Server, message: bytes, packing: grpc.Compression) -> str:
    """One call, packed by gRPC's own client; how it ends."""
    try:
        server.call(f"{INFERENCE}ModelInfer", message, timeout=60, compression=packing)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """gzip and deflate in turn."""
    megabytes, count = scale.of(100, 300), scale.of(4, 40)
    zeros = bytes(megabytes * MIB)
    ends = []
    with toys(transport) as server:
        settled(server)
        before, ran = mib(server, "VmHWM"), sample(server, SUCCESS)
        for at in range(count):
            packing = (grpc.Compression.Gzip, grpc.Compression.Deflate)[at % 2]
            ends.append(ask(server, zeros, packing))
            scale.tell(at + 1, count)
        grown, ran = mib(server, "VmHWM") - before, sample(server, SUCCESS) - ran
        settled(server)
    refused = ends.count("RESOURCE_EXHAUSTED")
    figures = {
        "bombs": count,
        "MiB each": megabytes,
        "packed KiB": len(gzip.compress(zeros, 6)) // 1024,
        "RESOURCE_EXHAUSTED": refused,
        "peak grew by MiB": round(grown, 1),
        "handlers run": int(ran),
    }
    good = refused == count and grown < 16 and not ran
    return Outcome(figures, good, count, ", ".join(sorted(set(ends) - {"RESOURCE_EXHAUSTED"})))


ROW = Row(
    number="7",
    title="Decompression bombs",
    method="ModelInfer gets messages of 300 KB that decompress to 300 MB, with gzip and deflate in turn.",
    goal="RESOURCE_EXHAUSTED. Memory grows by less than 16 MiB. No handler runs.",
    result=(
        "{RESOURCE_EXHAUSTED} of {bombs} rejected, {peak grew by MiB} MiB more at the peak, {handlers run} handlers."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_attacks.py",),
    run=run,
)
