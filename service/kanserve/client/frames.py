"""Answers as DataFrames, and what else of other packages is there or politely missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def needed(module: str, what: str, instead: str, install: str = "") -> Any:
    """An optional package, loaded at its first use. Raises ModuleNotFoundError that says `what` needs it, what there is
    `instead`, and how to `install` it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        how = install or f"run {sys.executable} -m pip install {module}"
        missing = f"{what} needs the Python package {module}, which is not installed"
        raise ModuleNotFoundError(f"{missing}: {instead} without it; to have it, {how}", name=module) from error


def frame(columns: Mapping[str, Any], *, index: Any = None) -> Any:
    """A pandas DataFrame of columns by name."""
    return needed("pandas", "to_frame()", "its arrays have the same numbers").DataFrame(columns, index=index)


def table(values: Any, names: Sequence[str], *, index: Any = None) -> Any:
    """A pandas DataFrame of `values` [rows, columns]; the rows are called as `index` has it (None: numbers)."""
    pandas = needed("pandas", "to_frame()", "its arrays have the same numbers")
    return pandas.DataFrame(values, columns=list(names), index=index)


def is_frame(rows: Any) -> bool:
    """Whether rows are a DataFrame, pandas' or polars'."""
    return hasattr(rows, "columns") and hasattr(rows, "to_numpy")


def index_of(rows: Any) -> Any:
    """What a DataFrame calls its rows; None where it is none, or has no such names, as polars'."""
    return getattr(rows, "index", None) if is_frame(rows) else None
