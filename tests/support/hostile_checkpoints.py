"""Mutations of checkpoint tensors, and an export of a whole hostile corpus in this process."""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.errors import ExportError
from kanexport.pipeline import Request, export

Tensors = dict[str, np.ndarray]
Mutation = Callable[[random.Random, Tensors, str], None]
EMPTY = ((0,), (0, 0), (0, 2**40), (2**40, 0), (2**40, 0, 3))  # no bytes, whatever the axes say
GROWN = 20_000  # values of a tensor that is made larger


def _with(change: Callable[[random.Random, np.ndarray], Any]) -> Mutation:
    """A mutation of one tensor by itself."""

    def mutate(rng: random.Random, tensors: Tensors, key: str) -> None:
        tensors[key] = np.asarray(change(rng, tensors[key]))

    return mutate


def _put(rng: random.Random, array: np.ndarray, *values: float) -> np.ndarray:
    """One of the values in one place, or in every place."""
    changed = array.astype(array.dtype if array.dtype.kind == "f" else np.float32)
    if changed.size:
        where: Any = ... if rng.random() < 0.2 else np.unravel_index(rng.randrange(changed.size), changed.shape)
        with np.errstate(over="ignore"):
            changed[where] = rng.choice(values)
    return changed


def _axis(rng: random.Random, array: np.ndarray) -> int:
    return rng.randrange(max(array.ndim, 1))


def _cut(rng: random.Random, array: np.ndarray) -> np.ndarray:
    if not array.size or not array.ndim:
        return array
    axis = _axis(rng, array)
    count = array.shape[axis]
    return array.take(range(rng.choice((0, 1, count // 2, max(count - 1, 0)))), axis=axis)


def _grow(rng: random.Random, array: np.ndarray) -> np.ndarray:
    if not array.ndim or not array.size:
        return np.zeros(rng.choice((1, 7)), dtype=array.dtype)
    axis = _axis(rng, array)
    times = rng.choice((2, 3, max(2, GROWN // array.size)))
    return np.concatenate([array] * times if rng.random() < 0.5 else [array, array.take([0], axis=axis)], axis=axis)


def _shuffled(rng: random.Random, array: np.ndarray) -> np.ndarray:
    return np.array(rng.sample(array.ravel().tolist(), array.size), dtype=array.dtype).reshape(array.shape)


def _reshaped(rng: random.Random, array: np.ndarray) -> np.ndarray:
    for part in (2, 3, 5, 7):
        if array.size % part == 0 and rng.random() < 0.7:
            return array.reshape(part, -1) if rng.random() < 0.5 else array.reshape(-1, 1, part)
    return array.reshape(-1)


def _typed(*codes: str) -> Mutation:
    def change(rng: random.Random, array: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(array).astype(rng.choice(codes))

    return _with(change)


def _drop(rng: random.Random, tensors: Tensors, key: str) -> None:
    del tensors[key]


def _rename(rng: random.Random, tensors: Tensors, key: str) -> None:
    name = rng.choice(
        (key + "x", "module." + key, key.upper(), key.replace("0", "7"), "a\x1b[2J" + key, key[1:] or "x")
    )
    tensors[name] = tensors.pop(key)


def _swap(rng: random.Random, tensors: Tensors, key: str) -> None:
    other = rng.choice(sorted(tensors))
    tensors[key], tensors[other] = tensors[other], tensors[key]


def _beside(rng: random.Random, tensors: Tensors, key: str) -> None:
    """Another layer of the same kind, another copy, or something of another kind."""
    name = rng.choice((key.replace("0", "3"), "other." + key, "fc.weight", key + ".weight", "bias", "bn.running_mean"))
    tensors.setdefault(name, tensors[key])


MUTATIONS: dict[str, Mutation] = {
    "drop": _drop,
    "rename": _rename,
    "swap": _swap,
    "beside": _beside,
    "transpose": _with(lambda rng, a: a.T),
    "turn": _with(lambda rng, a: np.moveaxis(a, 0, -1) if a.ndim else a),
    "axis more": _with(lambda rng, a: np.expand_dims(a, rng.randrange(a.ndim + 1))),
    "axis less": _with(lambda rng, a: a[0] if a.ndim and a.shape[0] else a),
    "flat": _with(lambda rng, a: a.reshape(-1)),
    "reshape": _with(_reshaped),
    "empty": _with(lambda rng, a: np.zeros(rng.choice((*EMPTY, (0, *a.shape[1:]), (*a.shape, 0))), a.dtype)),
    "scalar": _with(lambda rng, a: np.array(rng.choice((0.0, 1.0, -3.0))).astype(a.dtype)),
    "cut": _with(_cut),
    "grow": _with(_grow),
    "nan": _with(lambda rng, a: _put(rng, a, float("nan"))),
    "infinite": _with(lambda rng, a: _put(rng, a, float("inf"), float("-inf"))),
    "huge": _with(lambda rng, a: _put(rng, a, 3e38, -3e38, 1e300, 1e20)),
    "tiny": _with(lambda rng, a: _put(rng, a, 0.0, -0.0, 1e-45, 1e-30)),
    "constant": _with(lambda rng, a: np.full_like(a, rng.choice((0, 1)))),
    "negative": _with(lambda rng, a: -a if a.dtype.kind in "fi" else a),
    "shuffle": _with(_shuffled),
    "integers": _typed("i8", "i4", "i1", "u1", "u8", "?"),
    "floats": _typed("f2", "f4", "f8"),
    "complex": _typed("c8"),
}


def mutate(rng: random.Random, tensors: Tensors, *, kind: str | None = None) -> tuple[str, Tensors]:
    """A copy with one tensor spoilt (or a few), and what was done."""
    changed = dict(tensors)
    reported = []
    for _ in range(1 if kind else rng.choice((1, 1, 1, 1, 2, 3))):
        if not changed:
            break
        name = kind or rng.choice(sorted(MUTATIONS))
        key = rng.choice(sorted(changed))
        MUTATIONS[name](rng, changed, key)
        reported.append(f"{name} {key}")
    return ", ".join(reported), changed


# Running something, loading something, writing something: none is needed to refuse a file.
WATCHED = ("exec", "compile", "import", "marshal.", "pickle.", "ctypes.", "socket.", "subprocess.", "os.", "shutil.")
HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk"}


def main(folder: Path) -> None:
    entries = json.loads((folder / "list.json").read_bytes())
    seen: list[str] = []
    watching = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open" and isinstance(args[2], int) and args[2] & 0o3:  # O_WRONLY, O_RDWR
            seen.append(f"open {args[0]!r}")
        elif event.startswith(WATCHED) and event not in HARMLESS:
            seen.append(f"{event} {str(args)[:100]}")

    sys.addaudithook(hook)
    results = []
    for entry in entries:
        for _ in range(2):  # what is loaded late is loaded once
            seen, watching, started = [], True, time.process_time()
            error = _attempt(folder, entry)
            watching, spent = False, time.process_time() - started
            if not seen:
                break
        results.append({"name": entry["name"], "error": error, "seconds": spent, "seen": seen})
    # Not ru_maxrss, which a child takes over from the process that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0])
    print(json.dumps({"peak_kib": peak, "results": results}))


def _attempt(folder: Path, entry: dict[str, Any]) -> dict[str, str] | None:
    steps = Path(entry["steps"]) if entry["steps"] else None
    options = tuple(entry["options"])
    request = Request(
        path=Path(entry["path"]),
        repository=folder / "models",
        name="m",
        options=options,
        architecture=steps,
        force=True,
    )
    try:
        export(request)
    except ExportError as error:
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    except BaseException as error:  # what must not happen is told like the rest
        return {"kind": f"UNTYPED {type(error).__name__}", "message": str(error), "hint": ""}
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
