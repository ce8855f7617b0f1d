"""Tests of `shared/serialization.py`."""

import dataclasses
import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport.shared import manifest
from kanexport.shared.manifest import ManifestError
from tests.support.golden_cases import exported


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("pykan-mult-affine", tmp_path_factory.mktemp("models")).directory


@pytest.fixture(scope="module")
def document(real: Path) -> Any:
    return json.loads((real / "manifest.json").read_bytes())


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every key and to the first entry of every list."""
    if isinstance(value, dict):
        return [place for key, item in value.items() for place in [(*path, key), *_places(item, (*path, key))]]
    if isinstance(value, list) and value:
        return [(*path, 0), *_places(value[0], (*path, 0))]
    return []


def _changed(document: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> bytes:
    copy = json.loads(json.dumps(document))
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    change(holder, path[-1])
    return json.dumps(copy).encode()


def _free(path: tuple[Any, ...]) -> bool:
    """Inside a mapping of texts, whose keys may be anything."""
    free = {"parameters", "options_given", "options_assumed", "options_decided", "alternatives"}
    return not free.isdisjoint(path[:-1])


def test_every_key_is_needed_and_every_type_is_checked(document: Any) -> None:
    places = _places(document)
    assert len(places) > 80
    for path in places:
        if not isinstance(path[-1], int) and not _free(path) and path != ("format",):
            with pytest.raises(ManifestError, match=f"key '{path[-1]}' is missing"):
                manifest.loads(_changed(document, path, lambda holder, key: holder.pop(key)))
        for wrong in (None, "true" if path[-1] == "per_edge" else True):
            with pytest.raises(ManifestError, match=r"expected|this program reads"):
                manifest.loads(_changed(document, path, _putter(wrong)))


def _putter(value: Any) -> Callable[[Any, Any], None]:
    return lambda holder, key: holder.__setitem__(key, value)


def test_unknown_keys_are_refused_by_name(document: Any) -> None:
    holders = {path[:-1] for path in _places(document) if isinstance(path[-1], str) and not _free(path)}
    for path in holders:
        with pytest.raises(ManifestError, match="unknown key 'surprise'"):
            manifest.loads(_changed(document, (*path, "surprise"), _putter(1)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "1" + "0" * 5000])
def test_numbers_that_are_not_finite_are_refused(real: Path, number: str) -> None:
    text = (real / "manifest.json").read_text()
    changed = text.replace('"outputs_tolerance": 1e-05', f'"outputs_tolerance": {number}')
    assert changed != text
    with pytest.raises(ManifestError):
        manifest.loads(changed.encode())


def test_integers_outside_of_64_bits_are_refused_everywhere(document: Any) -> None:
    places = [path for path in _places(document) if type(functools.reduce(operator.getitem, path, document)) is int]
    assert len(places) > 12
    for path in places:
        for wrong in (2**63, -(2**63) - 1, 10**400):
            with pytest.raises(ManifestError, match=r"outside of 64 bits|NaN or infinity|this program reads"):
                manifest.loads(_changed(document, path, _putter(wrong)))


def test_not_finite_numbers_are_never_written(real: Path) -> None:
    result = manifest.load(real)
    bad = dataclasses.replace(result, reference=dataclasses.replace(result.reference, tolerance=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.dumps(bad)


@pytest.mark.parametrize("bracket", [b'{"a":', b"[", b'{"a":[[{"b":'])
def test_depth_is_counted_before_anything_is_parsed(bracket: bytes) -> None:
    with pytest.raises(ManifestError, match="nested more than 32 deep"):
        manifest.loads(bracket * 40 + b"1")
    for text in (bracket * 250_000, b"[" + b"[]," * 150_000 + b"1]"):
        with pytest.raises(ManifestError, match="lists and objects, expected at most 100000"):
            manifest.loads(text)
    with pytest.raises(ManifestError, match="this program reads"):  # brackets in a string do not count
        manifest.loads(b'{"format": "' + b"[{" * 1000 + b'\\"]"}')
