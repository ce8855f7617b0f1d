"""Check of published KAN layers and networks with `kanserve export --module`.

    pip install timm einops matplotlib pandas scikit-learn tqdm sympy unfoldNd    # an environment of its own
    pip install -e '.[export,torch]'
    PYTHONPATH=.:service:tools/oracle python tools/oracle/public_modules.py FOLDER [--only WORD] [--json FILE]

This repository contains no third-party code. FOLDER has clones, as owner/name; `public_modules.toml` lists the modules
of each file. `make wild-test` passes the folder `wild` and `wild.toml`: the same forms, in words of this project. The
program builds each configuration with random nonzero weights and exports it in a process with limits of time and
memory. It runs the graph on rows that are new to the export: near and far, one and many, zeros, equal values, NaN and
infinities. The outputs must equal the module's own, in float64 if it supports that, unless
rounding of the rows changes the module's own outputs as much.

The outcomes of a configuration: right; SILENT (exported and wrong, which is a failure); class C (rows depend
on each other) and random (its outputs differ each time), which the exporter rejects correctly; the code of its error,
if the table expects it and words of its advice; refused; not run upstream (its own code fails).
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import multiprocessing
import os
import resource
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import public_trial
import torch

# An export imports these modules. The parent process imports them once, so that forks do not repeat it.
for _name in ("torch.onnx", "onnxscript", "kanexport.torch_export.module_command"):
    importlib.import_module(_name)

TABLE = Path(__file__).with_suffix(".toml")
DEFAULTS = {"root": ".", "definitions": False, "tokens": [], "paths": [], "expected": "right", "hint": ""}


def configurations(path: Path, only: str) -> Iterator[dict[str, Any]]:
    """Those of a table whose repository, file or expression holds the word."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    for repository, facts in table["repositories"].items():
        shared = {key: value for key, value in facts.items() if key != "files"}
        for file, several in facts["files"].items():
            for item in several:
                supplied = DEFAULTS | shared | item
                supplied |= {"repository": repository, "file": file, "stand_ins": table["stand_ins"]}
                if only.lower() in f"{repository} {file} {supplied['make']}".lower():
                    yield supplied


class Ended(Exception):
    """The process of a step ends without a result."""


def step(act: Callable[..., dict[str, Any]], entry: dict[str, Any], folder: Path, seconds: int, name: str) -> Any:
    """The result of a step, which runs in a fork with all imports. Raises Ended."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(act, entry, folder, seconds, name))
    process.start()
    process.join(10 * seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    document = folder / f"{name}.json"
    if not document.is_file():
        words = (folder / f"{name}.txt").read_text(errors="replace").strip()[-300:]
        raise Ended(f"the process ended with {process.exitcode}: {words}")
    return json.loads(document.read_text())


def _child(act: Callable[..., dict[str, Any]], entry: dict[str, Any], folder: Path, seconds: int, name: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (entry["memory"] << 20, entry["memory"] << 20))
    printed = os.open(folder / f"{name}.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):  # what others' code prints
        os.dup2(printed, stream)
    result = json.dumps(act(entry, folder))
    (folder / f"{name}.json").write_text(result)


def run(entry: dict[str, Any], seconds: int) -> dict[str, Any]:
    """The outcome of one configuration."""
    if not (Path(entry["clones"]) / entry["repository"]).is_dir():
        return {"outcome": "no clone", "why": ""}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            result = step(public_trial.prepare, entry, folder, 60, "prepare")
            if result["outcome"] != "runs upstream" or not seconds:
                return dict(result)
            document = step(public_trial.export, entry, folder, seconds, "export")
            if "error" in document:
                return public_trial.refused(document, entry["expected"], entry["hint"])
            return dict(step(public_trial.compare, entry, folder, 300, "compare"))
        except Ended as error:
            return {"outcome": "refused", "why": str(error)}


def line(entry: dict[str, Any], found: dict[str, Any], seconds: float) -> str:
    """One row of the table that is printed."""
    edges = f"{found['edges']} layers, {found['worst']:.0e}" if "edges" in found else found["why"][:160]
    surprise = "" if found["outcome"] == entry["expected"] else f" (expected: {entry['expected']})"
    return f"{found['outcome']:17}{seconds:6.1f} s  {entry['repository']} {entry['make'][:70]}: {edges}{surprise}"


def totals(results: list[dict[str, Any]]) -> dict[str, Any]:
    exported = [item for item in results if "edges" in item]
    return {
        "configurations": len(results),
        "repositories": len({item["repository"] for item in results}),
        **collections.Counter(item["outcome"] for item in results),
        "with edges": sum(item["edges"] > 0 for item in exported),
        "layers with edges": sum(item["edges"] for item in exported),
        "rows compared": sum(item["compared"] for item in exported),
        "rows excused by rounding": sum(item["excused"] for item in exported),
        "rows that overflow upstream": sum(item["left_out"] for item in exported),
        "largest error": max((item["worst"] for item in exported), default=0.0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Published KAN modules, exported and held against themselves.")
    parser.add_argument("clones", type=Path, help="a folder with clones, as owner/name")
    parser.add_argument("--table", type=Path, default=TABLE, help="what to make (default: the one beside this file)")
    parser.add_argument("--only", default="", help="configurations whose repository, file or expression has this word")
    parser.add_argument("--first", type=int, default=0, help="leave out so many at the beginning")
    parser.add_argument("--every", type=int, default=1, help="try every N-th")
    parser.add_argument("--seconds", type=int, default=120, help="processor time for one export; 0: only make each")
    parser.add_argument("--memory", type=int, default=16_384, help="address space of one export, in MiB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of each")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for item in list(configurations(args.table, args.only))[args.first :: args.every]:
        begin = time.monotonic()
        result = run(item | {"clones": str(args.clones.resolve()), "memory": args.memory}, args.seconds)
        results.append({**item, **result, "seconds": round(time.monotonic() - begin, 1)})
        print(line(item, result, results[-1]["seconds"]), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"totals": totals(results), "results": results}, indent=1))
    for name, value in totals(results).items():
        print(f"{name:30}{value}")
    return 0 if all(item["outcome"] == item["expected"] for item in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
