"""`python -m kanserve.pb` regenerates this folder from `proto/`; `--check` compares.

Generating needs grpcio-tools, which wants a newer protobuf than tritonclient
allows: `make proto` runs this in an environment of its own. Without it,
`--check` compares the recorded hashes of sources and results.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[2] / "proto"
FILES = ("grpc_service.proto", "model_config.proto", "kan.proto", "onnx_graph.proto")
SET = "descriptors.binpb"
RECORD = "sources.json"
# protoc writes bare `Mapping`s and one unannotated argument.
STUB_HEADER = '# mypy: disable-error-code="type-arg,no-untyped-def"\n'
HOW = "grpcio-tools is not in this environment; `make proto` builds one that has it and runs this command"


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 fresh or written, 1 stale, 2 cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m kanserve.pb", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args(argv)
    if not PROTO.is_dir():
        print(f"there are no sources at {PROTO}: run this in a checkout", file=sys.stderr)
        return 2
    if not args.check:
        if not have_protoc():
            print(HOW, file=sys.stderr)
            return 2
        generate(HERE)
        return 0
    problems = stale() + (differences() if have_protoc() else [])
    for problem in problems:
        print(problem, file=sys.stderr)
    if not have_protoc():
        print(f"hashes compared only: {HOW}", file=sys.stderr)
    return 1 if problems else 0


def have_protoc() -> bool:
    """Whether the running interpreter has grpcio-tools."""
    return importlib.util.find_spec("grpc_tools") is not None


def generate(target: Path) -> None:
    """Write the descriptor set, the stubs and the record of hashes into `target`."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", "--include_imports"]
    command += [f"--descriptor_set_out={target / SET}", f"--pyi_out={target}", *FILES]
    subprocess.run(command, check=True)
    for stub in stubs():
        path = target / stub
        text = path.read_text().replace("import model_config_pb2 as", "from kanserve.pb import model_config_pb2 as")
        path.write_text(STUB_HEADER + text)
    record = {
        "grpcio-tools": importlib.metadata.version("grpcio-tools"),
        "sources": {name: digest(PROTO / name) for name in FILES},
        "generated": {name: digest(target / name) for name in (SET, *stubs())},
    }
    (target / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def stale() -> list[str]:
    """One sentence per file whose hash differs from the recorded hash."""
    record = json.loads((HERE / RECORD).read_text())
    found = []
    for name in FILES:
        if record["sources"].get(name) != digest(PROTO / name):
            found.append(f"proto/{name} changed since service/kanserve/pb was generated: run `make proto`")
    for name in (SET, *stubs()):
        if record["generated"].get(name) != digest(HERE / name):
            found.append(f"service/kanserve/pb/{name} was edited by hand: run `make proto`")
    return found


def differences() -> list[str]:
    """One sentence per generated file that differs from a fresh generation."""
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        generate(fresh)
        found = []
        if descriptors(fresh) != descriptors(HERE):
            found.append(f"service/kanserve/pb/{SET} is not what proto/ gives: run `make proto`")
        if tools(fresh) == tools(HERE):  # another release may format stubs otherwise
            changed = [name for name in stubs() if digest(fresh / name) != digest(HERE / name)]
            found += [f"service/kanserve/pb/{name} is not what proto/ gives" for name in changed]
        return found


def descriptors(folder: Path) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((folder / SET).read_bytes())


def tools(folder: Path) -> str:
    return str(json.loads((folder / RECORD).read_text())["grpcio-tools"])


def stubs() -> list[str]:
    return [name.replace(".proto", "_pb2.pyi") for name in FILES]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
