"""Command `kanserve certify`: certifies ranges, directions and Lipschitz bounds of a checkpoint over a box of inputs.

It writes nothing. The certificate goes to stdout; `--json` prints one document.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kanexport import pipeline
from kanexport.bundle import baseline
from kanexport.certify import certificate
from kanexport.certify.certificate import Certificate
from kanexport.cli import arguments
from kanexport.contract.cli.console import EXIT_CODES, Exit, print_json, say
from kanexport.contract.cli.tables import Table
from kanexport.contract.naming import Names, NamingError
from kanexport.contract.sections import AS_TRAINED, OUT_OF_RANGE_HELP, OUT_OF_RANGE_POLICIES
from kanexport.errors import OptionError
from kanexport.export_request import Request
from kanexport.ir.model import Kan

Array = npt.NDArray[np.float64]

GRID = "grid"
BOX = "--box"
MANIFEST = "manifest.json"
NO_EFFECT = "no effect"
TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
EXAMPLES = """examples:
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --budget 5s
  kanserve certify tests/golden/checkpoints/pykan-hello-adapted/model --box examples/hello.csv --budget 5s --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `certify` to a parser."""
    parser.description = (
        "Guarantee the output ranges of a trained KAN over a box of inputs, the direction of each output in each "
        "input, and Lipschitz bounds. The ranges hold for the float32 graph that `kanserve export` writes."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    add = parser.add_argument
    add(
        "path",
        type=Path,
        metavar="checkpoint",
        help="checkpoint file, prefix of a pykan checkpoint, or folder of an exported version",
    )
    add(
        BOX,
        default=GRID,
        metavar="FILE",
        help="rows as .npz, .npy or .csv, whose smallest and largest value of each column make the box, or `grid`: the "
        "grid of each input (default: grid)",
    )
    add("--budget", default="60s", metavar="TIME", help="time for the search and the bounds, such as 30s or 5m")
    add("--json", action="store_true", help="print one JSON document")
    arguments.fact_options(parser)
    add("--out-of-range", choices=tuple(OUT_OF_RANGE_POLICIES), default=AS_TRAINED, help=OUT_OF_RANGE_HELP)
    arguments.naming_options(parser, rows=False)
    arguments.scaler_options(parser)


def run(args: argparse.Namespace) -> int:
    """Certify a network from parsed arguments. Returns the exit code. Raises ExportError."""
    budget = seconds(args.budget)
    kan, names = _version(args) if _is_version(args.path) else pipeline.network(_request(args))
    low, high = certificate.grid_box(kan) if args.box == GRID else _box_of_rows(Path(args.box), names)
    result = certificate.certify(kan, low, high, budget)
    features = tuple(names.feature(at) for at in range(kan.n_inputs))
    classes = tuple(names.output(at) for at in range(kan.n_outputs))
    if args.json:
        print_json(certificate.document(result, features, classes))
    else:
        _show(result, features, classes)
    return Exit.DONE


def _box_of_rows(path: Path, names: Names) -> tuple[Array, Array]:
    """The smallest and largest value of each input in the rows of a file, [n] twice. Raises OptionError, also for
    columns that are not the features."""
    rows = baseline.load(path, BOX)
    try:
        order = names.order(rows.columns)
    except NamingError as error:
        raise OptionError(f"{BOX} {path.name}: {error}", code=error.code, hint=error.hint) from error
    x = rows.x if order is None else rows.x[:, order]
    return x.min(axis=0), x.max(axis=0)


def seconds(text: str) -> float:
    """The seconds of a time such as "60s", "5m" or "30". Raises OptionError."""
    match = TIME.fullmatch(text.strip())
    value = float(match[1]) * SECONDS[match[2] or ""] if match else 0.0
    if not (value > 0 and math.isfinite(value)):
        raise OptionError(
            f"--budget is {text[:40]!r}, expected a time above zero",
            code="budget-out-of-range",
            hint="pass a time such as 60s or 5m",
        )
    return value


def _is_version(path: Path) -> bool:
    """Whether the path is a version folder. Raises OptionError for the folder of a model, which has several."""
    if not path.is_dir():
        return False
    if versions := sorted(path.glob(f"*/{MANIFEST}")):
        raise OptionError(
            f"{path} is the folder of a model, expected one of its versions",
            code="certificate-needs-version",
            hint=f"pass {versions[-1].parent}",
        )
    return (path / MANIFEST).exists()


def _version(args: argparse.Namespace) -> tuple[Kan, Names]:
    """The network that the graphs of a version compute, and its names. Raises ExportError, also for options that the
    version has already."""
    if _request(args) != Request(path=args.path, repository=None):
        raise OptionError(
            f"{args.path} is an exported version, which has the options of its export already",
            code="arguments-conflict",
            hint="pass only --box, --budget and --json",
        )
    opened = pipeline.reopen(args.path)
    if opened.quantize:
        raise OptionError(
            f"{args.path} has quantized graphs ({opened.quantize}), which certificates do not cover",
            code="certificate-not-supported",
            hint="certify the checkpoint, or an export of it without --quantize",
        )
    return opened.served, opened.target.names


def _request(args: argparse.Namespace) -> Request:
    return Request(
        path=args.path,
        repository=None,
        family=args.family,
        options=tuple(args.option),
        symbolic=tuple(args.symbolic),
        functions=tuple(args.function),
        architecture=args.architecture,
        expected_outputs=tuple(args.expected_outputs),
        names=arguments.names(args),
        out_of_range=args.out_of_range,
        input_scaler=args.input_scaler,
        output_scaler=args.output_scaler,
    )


def _show(result: Certificate, features: tuple[str, ...], classes: tuple[str, ...]) -> None:
    outputs = Table(
        f"outputs of the served graph over the box ({result.boxes} boxes, {result.seconds:.1f} s)",
        ("output", "certified low", "found low", "found high", "certified high", "certified / found"),
        ("certified low", "found low", "found high", "certified high", "certified / found"),
    )
    for o, name in enumerate(classes):
        values = result.y_low[o], result.found_low[o], result.found_high[o], result.y_high[o], result.tightness[o]
        outputs.add(name, *(f"{value:.4g}" for value in values))
    outputs.show()
    _show_inputs(result, features, classes)
    say(f"float32 graph and network differ by at most {np.max(result.slack):.2g}")
    for assumption in certificate.ASSUMPTIONS:
        say(f"assumes: {assumption}")


def _show_inputs(result: Certificate, features: tuple[str, ...], classes: tuple[str, ...]) -> None:
    inputs = Table(
        "effect of each input over the box",
        ("input", "low", "high", *(f"{name} {what}" for name in classes for what in ("direction", "Lipschitz"))),
    )
    for i, name in enumerate(features):
        cells = [f"{result.low[i]:.4g}", f"{result.high[i]:.4g}"]
        for direction, steep in zip(result.direction[i], result.lipschitz[i], strict=True):
            # An output that does not change has the direction "increasing", which people would misread.
            cells += [direction if steep else NO_EFFECT, f"{steep:.4g}"]
        inputs.add(name, *cells)
    inputs.show()
