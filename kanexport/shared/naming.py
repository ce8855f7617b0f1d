"""Names for the numbers of a model: features, units and classes, and a description; endings of checkpoint files.

Standard library only. A row's numbers count in C order, those of several inputs or outputs one after the other.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kanexport.shared import csv_text, safe_files
from kanexport.shared.cli.console import CodedError
from kanexport.shared.cli.suggest import closest

LONGEST = 128  # characters of a name or a unit
DESCRIPTION = 4096  # characters
SHOWN = 5  # names in an error
NAMES_LIST = 'write a JSON list of strings, such as ["age", "height"]'
FILES = (".csv", ".json", ".txt")
# Endings of checkpoints, for any content: an argument with such an ending names a file, not a served model.
CHECKPOINTS = (".pt", ".pth", ".safetensors", ".ckpt", ".keras")
MORE_CHECKPOINTS = (".bin", ".pkl", ".pickle", ".model")  # other files have these endings too


class NamingError(CodedError):
    """Names that are not valid or do not fit the model. The message has the value found and the value expected."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a model's numbers; each empty if the user gave none.

    features     one for each number of a row
    units        one for each feature
    classes      one for each number of an output
    description  of the model
    """

    features: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    description: str = ""

    def __bool__(self) -> bool:
        return bool(self.features or self.units or self.classes or self.description)

    def feature(self, at: int) -> str:
        """The name of an input value; x0, x1 ... without names."""
        return self.features[at] if self.features else f"x{at}"

    def output(self, at: int) -> str:
        """The name of an output value; y0, y1 ... without names."""
        return self.classes[at] if self.classes else f"y{at}"

    def columns(self, sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """The names of the values of each output, by the name of the output. `sizes`: the values per row of each
        output. The names are the classes if there are so many. Otherwise they are y0, y1 ... for a single output,
        and NAME0, NAME1 ... for several."""
        columns, first = {}, 0
        known = len(self.classes) == sum(sizes.values())
        for name, size in sizes.items():
            if known:
                columns[name] = self.classes[first : first + size]
            else:
                columns[name] = tuple(f"{'y' if len(sizes) == 1 else name}{at}" for at in range(size))
            first += size
        return columns

    def check(self, inputs: int, outputs: int) -> None:
        """Raises NamingError if the names do not fit a model with so many input and output values per row."""
        for what, names, expected in (
            ("features", self.features, inputs),
            ("units", self.units, inputs),
            ("classes", self.classes, outputs),
        ):
            if names and len(names) != expected:
                where = "output" if what == "classes" else "input"
                raise NamingError(
                    f"found {len(names)} {what}, expected {expected}: one per {where} of the model",
                    code="names-wrong-count",
                    hint=f"name each {where} with --{what}",
                )
            for name in names:
                _check(what, name, empty=what == "units")
            if what != "units" and (twice := _twice(names)):
                raise NamingError(
                    f"{what}: {twice!r} occurs twice", code="names-repeated", hint="give each value its own name"
                )
        self._check_rest()

    def _check_rest(self) -> None:
        if self.units and not self.features:
            raise NamingError(
                "found units without features",
                code="units-without-features",
                hint="name the inputs with --features",
            )
        if len(self.description) > DESCRIPTION or "\0" in self.description:
            raise NamingError(
                f"the description has {len(self.description)} characters, expected at most {DESCRIPTION}, without NUL",
                code="description-too-long",
                hint="shorten the text of --description",
            )

    def order(self, columns: Sequence[str]) -> list[int] | None:
        """The position of each feature in a row with these `columns`. None if the model or the columns have no names.
        Raises NamingError for a missing feature, and for a column that is not a feature."""
        if not self.features or not columns:
            return None
        self._match(columns)
        positions = {name: at for at, name in enumerate(columns)}
        return [positions[name] for name in self.features]

    def _match(self, columns: Sequence[str]) -> None:
        there, known = set(columns), set(self.features)
        unknown = [name for name in columns if name not in known]
        if missing := [name for name in self.features if name not in there]:
            near = closest(missing[0], unknown)
            raise NamingError(
                f"missing column {listed(missing)}" + (f", found {near!r}" if near else ""),
                code="column-missing",
                hint="rename the columns of the file to the features of the model",
            )
        if unknown:
            raise NamingError(
                f"unknown column {listed(unknown)}, which is not one of the {len(known)} features of the model",
                code="column-unknown",
                hint="remove the column from the file",
            )
        if twice := _twice(columns):
            raise NamingError(
                f"the column {twice!r} occurs twice", code="column-repeated", hint="remove or rename one of the columns"
            )


UNNAMED = Names()


def sizes(inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Values per row of the inputs and of the outputs, from shapes with their batch axis."""
    of_inputs, of_outputs = (sum(math.prod(shape[1:]) for shape in shapes) for shapes in (inputs, outputs))
    return of_inputs, of_outputs


def parse(option: str, text: str) -> tuple[str, ...]:
    """Names from the value of an option: separated by commas, or a file: the header of a .csv, the list in a .json,
    the lines of a .txt. Raises NamingError."""
    if not text.lower().endswith(FILES):
        return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    try:
        content = csv_text.decode(text, safe_files.read(text, safe_files.ANY, links=True))
    except (OSError, csv_text.CsvError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NamingError(
            f"{option} {text} cannot be read: {reason}",
            code="names-file-unreadable",
            hint="check the path and the permissions of the file",
        ) from error
    names = _names(text, content)
    if not names:
        raise NamingError(
            f"{option} {text} has no names, expected a header line in a .csv",
            code="names-file-malformed",
            hint="write the names into the first line, with commas between them",
        )
    return names


def _names(path: str, content: str) -> tuple[str, ...]:
    if path.lower().endswith(".csv"):
        return tuple(name.strip() for name in csv_text.header(content))
    if path.lower().endswith(".txt"):
        return tuple(line.strip() for line in content.splitlines() if line.strip())
    try:
        names = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NamingError(f"{path} is not valid JSON: {error}", code="names-file-malformed", hint=NAMES_LIST) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NamingError(f"{path} is not a list of names", code="names-file-malformed", hint=NAMES_LIST)
    return tuple(names)


def _twice(names: Sequence[str]) -> str:
    """The first name that occurs twice, or ""."""
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), "")


def _check(what: str, name: str, *, empty: bool) -> None:
    if not (name or empty) or len(name) > LONGEST or not name.isprintable() or name != name.strip():
        raise NamingError(
            f"{what}: {name[:LONGEST]!r} is not a valid name, expected 1 to {LONGEST} printable characters",
            code="name-invalid",
            hint="remove spaces at both ends, and characters that cannot be printed",
        )


def listed(names: Sequence[str]) -> str:
    """The first names as text, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
