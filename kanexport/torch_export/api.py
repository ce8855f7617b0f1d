"""Python API of the export, `kanexport.export`, for a module in memory."""

from __future__ import annotations

import copy
import inspect
import io
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle import baseline as baseline_rows
from kanexport.bundle import calibration as calibration_rows
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import MAX_BATCH_SIZE, Result, Target
from kanexport.errors import OptionError
from kanexport.options import KnownFacts
from kanexport.parity.data import GIVEN, stored
from kanexport.shared import atomic
from kanexport.shared.naming import Names
from kanexport.shared.sections import AS_TRAINED
from kanexport.torch_export.borrowed_module import evaluating
from kanexport.torch_export.convert import convert
from kanexport.torch_export.inputs import SEVERAL, named_inputs, require_as_many, resampled
from kanexport.torch_export.io_binding import names, tensors
from kanexport.verify.tolerances import OUTPUT_TOLERANCE


def export(
    module: nn.Module,
    example_inputs: Any,
    *,
    name: str,
    repository: str | Path = "models",
    version: int = 1,
    options: Mapping[str, object] | None = None,
    functions: Mapping[str, str] | None = None,
    dtype: str = "float32",
    max_batch_size: int = MAX_BATCH_SIZE,
    tolerance: float = OUTPUT_TOLERANCE,
    force: bool = False,
    expected_outputs: str | Path | None = None,
    features: Sequence[str] = (),
    units: Sequence[str] = (),
    classes: Sequence[str] = (),
    description: str = "",
    baseline: Any = None,
    explain: bool | Sequence[str | int] = False,
    out_of_range: str = AS_TRAINED,
    calibration: str | Path | None = None,
    coverage: float | None = None,
    interval_method: str = "",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Export a module with KAN layers into a model repository; it restores the module, and returns the bundle.

    example_inputs    rows [rows, ...] as the module takes them: a tensor, an array, or a tuple. Verification uses them.
    options           facts that no tensor shows, as in `--option`
    functions         expressions in x, by name, as in `--function`
    expected_outputs  a file of `record_outputs`, with outputs of the trained model
    baseline          a file as in `--baseline`, or a DataFrame whose columns name the features
    explain           True as `--explain`, or the layers of `--explain-layers`

    Others are as the options of `kanserve export`. Raises ExportError, and writes nothing then."""
    target = Target(
        repository=Path(repository),
        name=name,
        version=version,
        dtype=dtype,
        max_batch_size=max_batch_size,
        tolerance=tolerance,
        force=force,
        names=Names(tuple(features), tuple(units), tuple(classes), description),
        explain=ExplainOptions.parse(explain),
        out_of_range=out_of_range,
        baseline=None if baseline is None else baseline_rows.rows_of(baseline),
        intervals=calibration_rows.options(calibration, coverage, interval_method, classes),
    )
    files = () if expected_outputs is None else (Path(expected_outputs),)
    return convert(module, example_inputs, target, options=_facts(options, functions), expected=files, advance=advance)


def _facts(options: Mapping[str, object] | None, functions: Mapping[str, str] | None) -> dict[str, str]:
    """The facts that the user gives, by name. Raises OptionError."""
    pairs, texts = ([f"{name}={value}" for name, value in (values or {}).items()] for values in (options, functions))
    return dict(KnownFacts.parse(pairs, functions=texts).explicit)


BESIDE = (1.5, 3.0, 10.0)  # times the given rows
FAR = (100.0, 1000.0)
MOST = 64  # of the given rows, that others are made from
SEED = 0
HALF = (torch.float16, torch.bfloat16)
NESTED = (
    "record a function that makes the dictionary, such as `lambda image, meta: model({'image': image, 'meta': meta})`"
)

Array = npt.NDArray[Any]
Inputs = Sequence[tuple[str, str, Array]]  # name, keyword (empty for a positional input), rows


def record_outputs(model: Callable[..., Any], rows: Any, path: str | Path) -> Path:
    """Write outputs of a trained model to an .npz, for `kanserve export --expected-outputs` (or `expected_outputs=`).

    model  a torch module, as it is, or a function of arrays; a module runs in eval mode and is as it was afterwards
    rows   rows [B, ...] like the data, a tensor or array; several inputs are a tuple in the order of the parameters, a
           dictionary by their names (they become keyword arguments), or a tuple whose last part is such a dictionary
    path   file to write

    The function also runs the model on rows around and far outside of them, on zeros, and on rows of one sign. For
    whole numbers and truth values, such as ids of tokens, it draws from the given ones.

    The file holds the inputs under their names, `y` (several outputs: `y.NAME` each) and `zone`, in the model's own
    precision. A single input is `x`, or has the name that a dictionary gives it. A module of half precision runs as a
    float32 copy, because its own outputs would be too inexact to separate forward variants. The file leaves out outputs
    that have no row for each row of the input, such as a loss. Raises OptionError if the first output does not have
    one row per input row, and for rows or outputs that are not real numbers.
    """
    entries = _named_rows(model, rows)
    rng = np.random.default_rng(SEED)
    zones = [_floating(value, rng) if value.dtype.kind == "f" else _drawn(value, rng) for _, _, value in entries]
    inputs = [
        (name, keyword, np.concatenate(list(by_zone.values())))
        for (name, keyword, _), by_zone in zip(entries, zones, strict=True)
    ]
    outputs = _outputs(_run(model, inputs), len(inputs[0][2]), [name for name, _, _ in inputs])
    zone = np.array([name for name, some in zones[0].items() for _ in some])
    buffer = io.BytesIO()
    # Not numpy.savez: an input may have a name that it reserves, such as `file`.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in stored({name: value for name, _, value in inputs}, outputs, zone).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
    target = Path(path)
    atomic.write(target, buffer.getvalue())
    return target


def _named_rows(model: Callable[..., Any], rows: Any) -> list[tuple[str, str, Array]]:
    """The name, keyword and rows of each input. Raises OptionError unless they are tensors of finite real numbers
    with the same number of rows."""
    example = np.asarray(rows) if isinstance(rows, list) else rows
    try:
        parameters = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    except (TypeError, ValueError):  # some functions have no signature to read
        parameters = types.MappingProxyType({"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)})
    raw_inputs = named_inputs(example, parameters)
    inputs = [(name, keyword, _array(value)) for name, keyword, value in raw_inputs]
    whole = len(inputs) > 1 or isinstance(model, nn.Module)  # a function of one array takes floating-point numbers
    for (name, _, value), (_, _, raw) in zip(inputs, raw_inputs, strict=True):
        if isinstance(raw, Mapping):
            raise OptionError(
                f"rows of {name} are a dictionary, expected a tensor or an array [rows, ...]",
                code="rows-wrong-shape",
                hint=NESTED,
            )
        are_rows = value.dtype.kind in ("fiub" if whole else "f") and value.ndim > 0 and len(value) > 0
        if not are_rows or not np.isfinite(value).all():
            what = "rows are" if len(inputs) == 1 else f"rows of {name} are"
            raise OptionError(
                f"{what} {value.dtype} of shape {value.shape}, expected finite real numbers [rows, ...]",
                code="rows-wrong-shape",
                hint=SEVERAL,
            )
    require_as_many({name: len(value) for name, _, value in inputs}, "the inputs")
    return inputs


def _floating(values: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Rows by region, in the type of the given rows: these, and others derived from them."""
    few = values[_few(values)]
    spread = float(values.std()) or 1.0
    zones = {
        GIVEN: values,
        "around": few + rng.normal(0, spread / 2, size=few.shape),
        "beside": np.concatenate([few * factor for factor in BESIDE]),
        "one-sided": np.concatenate([np.abs(few), -np.abs(few)]),
        "zeros": np.zeros_like(few[:1]),
        "far": np.concatenate([few[:8] * factor for factor in FAR]),
    }
    return {name: np.asarray(rows, dtype=values.dtype) for name, rows in zones.items()}


def _drawn(values: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Whole numbers as given. In the other regions, each place has values that the given rows have there, because
    other values may be invalid for the model."""
    few = len(_few(values))
    counts = {"around": few, "beside": few * len(BESIDE), "one-sided": few * 2, "zeros": 1, "far": min(few, 8) * 2}
    return {GIVEN: values} | {name: resampled(values, count, rng) for name, count in counts.items()}


def _few(values: Array) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, len(values) - 1, MOST).astype(int))


def _array(value: Any) -> Array:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype in HALF else value).numpy())
    return np.asarray(value)


def _run(model: Callable[..., Any], inputs: Inputs) -> Any:
    """The outputs of the model. A module runs in eval mode, in its precision, on its device."""
    if not isinstance(model, nn.Module):
        return _called(model, inputs)
    # A module in half precision runs as a float32 copy. The rows have its type and are on its device.
    parameter = next((value for value in model.parameters() if value.is_floating_point()), None)
    half = parameter is not None and parameter.dtype in HALF
    module = copy.deepcopy(model).float() if half else model
    placed = [(name, keyword, torch.from_numpy(value)) for name, keyword, value in inputs]
    if parameter is not None:
        dtype = torch.float32 if half else parameter.dtype
        placed = [
            (name, keyword, rows.to(parameter.device, dtype if rows.is_floating_point() else None))
            for name, keyword, rows in placed
        ]
    with evaluating(module), torch.no_grad():
        return _called(module, placed)


def _called(model: Callable[..., Any], inputs: Sequence[tuple[str, str, Any]]) -> Any:
    places = [value for _, keyword, value in inputs if not keyword]
    return model(*places, **{keyword: value for _, keyword, value in inputs if keyword})


def _outputs(result: Any, rows: int, taken: Sequence[str]) -> dict[str, Array]:
    """The outputs of a model, by name, if they have one row per input row. Raises OptionError if the first output
    does not."""
    # A list of numbers is an array.
    has_tensors = not isinstance(result, list) or any(isinstance(part, torch.Tensor | np.ndarray) for part in result)
    named_outputs = [(name, _array(value)) for name, value in tensors(result if has_tensors else np.asarray(result))]
    if not named_outputs or not _are_outputs(named_outputs[0][1], rows):
        shown = (
            f"{named_outputs[0][1].dtype} of shape {named_outputs[0][1].shape}"
            if named_outputs
            else type(result).__name__
        )
        raise OptionError(
            f"the model returns {shown} for {rows} rows, expected one output per row",
            code="outputs-not-per-row",
            hint="wrap the model in a function that returns tensors [rows, ...]",
        )
    entries = [entry for entry in named_outputs if _are_outputs(entry[1], rows)]
    called = names([name for name, _ in entries], taken)
    return dict(zip(called, (value for _, value in entries), strict=True))


def _are_outputs(value: Array, rows: int) -> bool:
    return value.dtype.kind in "fiub" and value.ndim > 0 and len(value) == rows
