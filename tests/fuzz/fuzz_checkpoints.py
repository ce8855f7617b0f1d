"""Mutated checkpoints against the readers: a typed error or success, and nothing else.

Run it for as long as you like; the test suite runs a few thousand of the same:

    python tests/fuzz/fuzz_checkpoints.py --seconds 120 --seed 7
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden_cases import cases

from kanexport import checkpoint, readers
from kanexport.errors import ExportError
from kanexport.options import Options

SIZE_LIMIT = 200_000  # bytes; larger files only make it slower
SLOW = 5.0  # seconds of one case that count as a finding
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"R",
    b"c",
    b"\x93",
    b"Q",
    b"(",
    b"t",
    b"*a",
    b"&a ",
    b"!!python/",
    b"[",
)
NUMBERS = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 1_000_000)


@dataclass(frozen=True)
class Seed:
    """The files of one checkpoint, by what follows the prefix, and its options."""

    name: str
    files: dict[str, bytes]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """An input that was neither read nor refused as it should be."""

    number: int
    seed: Seed
    text: str


def seeds() -> list[Seed]:
    """The golden checkpoints, the small ones."""
    found = []
    for case in cases():
        paths = [case.path] if case.path.is_file() else [Path(f"{case.path}{end}") for end in ("_state", "_config.yml")]
        files = {path.name.removeprefix("model"): path.read_bytes() for path in paths}
        if sum(map(len, files.values())) < SIZE_LIMIT:
            found.append(Seed(case.name, files, case.options))
    return found


def scramble(rng: random.Random, data: bytes) -> bytes:
    """A few random edits: bits, bytes, numbers, cuts, repeats, moves."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        length = rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = rng.choice(INTERESTING)
        elif kind == 2:
            changed[at : at + 4] = struct.pack("<q", rng.choice(NUMBERS))[:4]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 1, 50))
        elif kind == 5:
            source = rng.randrange(len(changed))
            changed[at : at + length] = changed[source : source + length]
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


def scramble_inside(rng: random.Random, data: bytes) -> bytes:
    """Edit one entry of a torch archive and write it whole again: the checksum fits, so
    the change reaches the pickle or the weights."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(target, "w") as after:
        names = before.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        chosen = pickled if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            content = before.read(name)
            after.writestr(name, scramble(rng, content) if name == chosen else content)
    return target.getvalue()


def mutate(rng: random.Random, seed: Seed) -> dict[str, bytes]:
    """The seed's files with one of them changed."""
    chosen = rng.choice(sorted(seed.files))
    data = seed.files[chosen]
    inside = data.startswith(b"PK") and rng.random() < 0.7
    return {**seed.files, chosen: scramble_inside(rng, data) if inside else scramble(rng, data)}


def attempt(folder: Path, files: dict[str, bytes], options: tuple[str, ...]) -> str:
    """Read a checkpoint as export does; "read", or the kind of the typed error."""
    for end, data in files.items():
        (folder / f"model{end}").write_bytes(data)
    path = folder / ("model.pt" if ".pt" in files else "model")
    try:
        loaded = checkpoint.load(path)
        given = Options.parse(options)
        reader, _ = readers.detect(loaded, None)
        reader.read(loaded, given)
        given.finish(reader.FAMILY)
    except ExportError as error:
        if not error.message:
            raise
        return type(error).__name__
    return "read"


def fuzz(rng: random.Random, folder: Path, count: int, seconds: float) -> Iterator[str | Finding]:
    """Outcomes of `count` mutations, or of as many as fit into the time."""
    known, end = seeds(), time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > end:
            return
        seed = rng.choice(known)
        files = mutate(rng, seed)
        started = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = attempt(folder, files, seed.options)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            yield Finding(number, Seed(seed.name, files, seed.options), traceback.format_exc())
            continue
        if time.monotonic() - started > SLOW:
            yield Finding(number, Seed(seed.name, files, seed.options), f"took {time.monotonic() - started:.1f} s")
        yield outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**9, help="mutations to try (default: until the time is up)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to spend (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="start of the random sequence (default: 0)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    args = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in fuzz(random.Random(args.seed), Path(folder), args.count, args.seconds):
            outcomes["finding" if isinstance(outcome, Finding) else outcome] += 1
            if isinstance(outcome, Finding):
                print(f"finding {outcome.number} from {outcome.seed.name}:\n{outcome.text}", file=sys.stderr)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    for end, data in outcome.seed.files.items():
                        (args.keep / f"{args.seed}-{outcome.number}{end}").write_bytes(data)
    print(json.dumps({"tried": outcomes.total(), "outcomes": dict(outcomes.most_common())}))
    return 1 if outcomes["finding"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
