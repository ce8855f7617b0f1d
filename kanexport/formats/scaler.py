"""Scaler files: mean and scale, or minimum and maximum of each column, as JSON.

    {"mean": [2020, 5.5], "scale": [10, 0.25]}                  scaled = (value - mean) / scale
    {"min": [0, -1], "max": [10, 1], "range": [-1, 1]}          the least value becomes -1, the greatest 1

`range` is [0, 1] if it is missing. A number instead of a list is a file for one column. `columns` lists the names of
the columns, in the order of the numbers. The parser rejects any other key. It reads numbers only, and executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanexport.errors import OptionError
from kanexport.shared import safe_files, serialization
from kanexport.shared.cli.suggest import advice, closest
from kanexport.shared.naming import listed
from kanexport.shared.sections import MIN_MAX, STANDARD, Scaler

SIZE_LIMIT = 16 * 2**20  # bytes of a file
SMALLEST, LARGEST = 1e-30, 1e30  # of a scale, and of the magnitude of another number, so that float32 stores it
UNIT = (0.0, 1.0)  # the range of a min-max scaler without one
COLUMNS = "columns"
KEYS = {STANDARD: ("mean", "scale"), MIN_MAX: ("min", "max")}
OPTIONAL = {STANDARD: (COLUMNS,), MIN_MAX: ("range", COLUMNS)}
FORMS = 'write {"mean": [...], "scale": [...]} or {"min": [...], "max": [...]}, one number per column'


@dataclass(frozen=True, slots=True)
class ScalerFile:
    """Scaler in a file. `columns`: the names of its columns, in its order; empty if the file has none. `option`: the
    argument that names the file."""

    scaler: Scaler
    columns: tuple[str, ...]
    option: str

    def fitted(self, names: Sequence[str], count: int, what: str) -> tuple[Scaler, tuple[str, ...]]:
        """The scaler with its columns in the order of the model, and notes on a changed order. Raises OptionError.

        names  of the columns of the model; empty if it has none
        count  of the columns of the model
        what   one column of the model in words, "input" or "output"
        """
        scaler, place = self.scaler, f"{self.option} {self.scaler.name}"
        if len(scaler.scale) != count:
            raise OptionError(
                f"{place} has numbers for {len(scaler.scale)} columns, expected {count}: one per {what} of the model",
                code="scaler-wrong-length",
                hint=f"write one number for each {what}, in the order of the training data",
            )
        if not self.columns or not names or self.columns == tuple(names):
            return scaler, ()
        unknown = [name for name in self.columns if name not in names]
        if unknown:
            missing = [name for name in names if name not in self.columns]
            near = closest(unknown[0], missing)
            raise OptionError(
                f"{place} has the column {listed(unknown)}, expected the {what}s of the model: {listed(names)}",
                code="scaler-column-unknown",
                hint=f"did you mean {near!r}?" if near else f"rename the columns of the file to the {what}s",
            )
        order = [self.columns.index(name) for name in names]
        moved = replace(
            scaler,
            offset=tuple(scaler.offset[at] for at in order),
            scale=tuple(scaler.scale[at] for at in order),
        )
        return moved, (f"the columns of {scaler.name} are in another order than the {what}s; their names decide",)


def load(path: Path, option: str) -> ScalerFile:
    """The scaler in a file that `option` names. Raises OptionError, which names the file and the fault."""
    try:
        data = safe_files.read(path, SIZE_LIMIT, links=True)
    except safe_files.UnsafeFile as error:
        raise OptionError(f"{option} {error}", code=error.code, hint=error.hint) from error
    except OSError as error:
        raise OptionError(
            f"{option} {path} cannot be read: {error.strerror or error}",
            code="scaler-unreadable",
            hint="check the path and the permissions of the file",
        ) from error
    parser = _Parser(f"{option} {path.name}")
    document = parser.document(data)
    kind = parser.kind(document)
    columns = parser.columns(document)
    first, second = (parser.numbers(document, key) for key in KEYS[kind])
    parser.require_lengths(dict(zip(KEYS[kind], (len(first), len(second)), strict=True)))
    if columns:
        parser.require_lengths({KEYS[kind][0]: len(first), COLUMNS: len(columns)})
    scaler = Scaler(kind=kind, name=path.name, sha256=hashlib.sha256(data).hexdigest())
    scaler = (
        parser.standard(scaler, first, second) if kind == STANDARD else parser.min_max(scaler, document, first, second)
    )
    return ScalerFile(scaler, columns, option)


class _Parser:
    """Parser of one file. `place`: the option and the name of the file, for errors."""

    def __init__(self, place: str) -> None:
        self._place = place

    def document(self, data: bytes) -> dict[str, Any]:
        """The JSON object in a file. Raises OptionError."""
        try:
            serialization.json_of(data)  # rejects deep nesting before it parses, and NaN
            document = json.loads(data, object_pairs_hook=self._object)
        except (ValueError, RecursionError) as error:
            raise self._malformed(f"is not valid JSON: {str(error)[:200]}") from error
        if not isinstance(document, dict):
            raise self._malformed(f"is {serialization.name_of(document)}, expected an object")
        return document

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"the key {twice[0][:40]!r} occurs twice")
        return dict(pairs)

    def _malformed(self, fault: str) -> OptionError:
        return OptionError(f"{self._place} {fault}", code="scaler-malformed", hint=FORMS)

    def kind(self, document: dict[str, Any]) -> str:
        """STANDARD or MIN_MAX, by the keys. Raises OptionError."""
        kinds = [kind for kind, keys in KEYS.items() if any(key in document for key in keys)]
        if len(kinds) != 1:
            keys = ", ".join(key[:40] for key in list(document)[:8]) or "no keys"
            raise self._malformed(f"has {keys}, expected mean and scale, or min and max")
        known = (*KEYS[kinds[0]], *OPTIONAL[kinds[0]])
        unknown = next((key[:40] for key in document if key not in known), None)
        if unknown is not None:
            raise OptionError(
                f"{self._place} has the unknown key {unknown!r}", code="scaler-key-unknown", hint=advice(unknown, known)
            )
        missing = next((key for key in KEYS[kinds[0]] if key not in document), None)
        if missing is not None:
            raise self._malformed(f"has no key {missing!r}")
        return kinds[0]

    def columns(self, document: dict[str, Any]) -> tuple[str, ...]:
        """The names of the columns; empty without them. Raises OptionError."""
        if COLUMNS not in document:
            return ()
        names = document[COLUMNS]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._malformed(f"has {COLUMNS} {_shown(names)}, expected a list of names")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise OptionError(
                f"{self._place}: the column {twice[0][:80]!r} occurs twice",
                code="scaler-column-repeated",
                hint="give each column its own name",
            )
        return tuple(names)

    def numbers(self, document: dict[str, Any], key: str) -> tuple[float, ...]:
        """The numbers of a key; a single number is a list of one. Raises OptionError."""
        values = document[key] if isinstance(document[key], list) else [document[key]]
        if not values:
            raise self._malformed(f"has an empty list {key!r}")
        for at, value in enumerate(values):
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if not known or not abs(value) <= LARGEST:
                raise OptionError(
                    f"{self._place}: {key}[{at}] is {_shown(value)}, expected a number of magnitude up to {LARGEST:g}",
                    code="scaler-value-invalid",
                    hint=FORMS,
                )
        return tuple(map(float, values))

    def require_lengths(self, lengths: dict[str, int]) -> None:
        """Raises OptionError for lists of several lengths."""
        if len(set(lengths.values())) > 1:
            counts = " and ".join(f"{count} in {key}" for key, count in lengths.items())
            raise OptionError(
                f"{self._place} has {counts}, expected the same number of entries",
                code="scaler-lengths-differ",
                hint=FORMS,
            )

    def standard(self, scaler: Scaler, mean: tuple[float, ...], scale: tuple[float, ...]) -> Scaler:
        """A scaler from mean and scale. Raises OptionError."""
        for at, value in enumerate(scale):
            if value < SMALLEST:
                raise OptionError(
                    f"{self._place}: scale[{at}] is {value:g}, expected a positive number of at least {SMALLEST:g}",
                    code="scaler-scale-invalid",
                    hint="write 1 for a constant column, as scikit-learn's scale_ does",
                )
        return replace(scaler, offset=mean, scale=scale)

    def min_max(
        self, scaler: Scaler, document: dict[str, Any], least: tuple[float, ...], greatest: tuple[float, ...]
    ) -> Scaler:
        """A scaler from minimum, maximum and range. Raises OptionError."""
        ends = self.numbers(document, "range") if "range" in document else UNIT
        if len(ends) != 2 or not ends[1] - ends[0] >= SMALLEST:
            raise self._malformed(f"has the range {_shown(document['range'])}, expected [low, high] with low < high")
        low, high = ends
        scales = [(top - bottom) / (high - low) for bottom, top in zip(least, greatest, strict=True)]
        for at, value in enumerate(scales):
            if value < SMALLEST:
                raise OptionError(
                    f"{self._place}: min[{at}] is {least[at]:g} and max[{at}] is {greatest[at]:g}, expected min < max",
                    code="scaler-scale-invalid",
                    hint="write max = min + 1 for a constant column, as scikit-learn's MinMaxScaler computes",
                )
        offset = tuple(bottom - low * scale for bottom, scale in zip(least, scales, strict=True))
        return replace(scaler, offset=offset, scale=tuple(scales), range=(low, high))


def _shown(value: Any) -> str:
    """A JSON value as text, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
