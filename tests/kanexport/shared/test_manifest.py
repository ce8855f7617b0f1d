"""The manifest on disk: written values are read back, and invalid files are rejected."""

import dataclasses
import functools
import json
import random
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport.shared import manifest
from kanexport.shared.manifest import FORMAT, BasisInfo, LayerInfo, Manifest, ManifestError, NodeStep, SymbolicEdge
from kanexport.shared.sections import CertificateInfo, Intervals, OutputInterval, Scaler, Scalers
from tests.kanexport.shared.test_formula import layer as formula_layer
from tests.support import toy_model
from tests.support.golden_cases import exported


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("pykan-mult-affine", tmp_path_factory.mktemp("models")).directory


def test_a_real_manifest_survives(real: Path) -> None:
    result = manifest.load(real)
    assert manifest.dumps(result) == (real / "manifest.json").read_bytes()
    assert result.file("model.onnx").size == (real / "model.onnx").stat().st_size
    with pytest.raises(ManifestError, match=r"other\.onnx is not listed"):
        result.file("other.onnx")


@pytest.mark.parametrize("actual", [0, 2, 8, -1, "1", None, 1.0, True, [1]])
def test_another_format_is_refused_with_the_command_that_exports_again(real: Path, actual: Any) -> None:
    document = {**json.loads((real / "manifest.json").read_bytes()), "format": actual}
    says = r"format .*, this program reads format 1: .*export the model again with `kanserve export CHECKPOINT"
    with pytest.raises(ManifestError, match=says):
        manifest.loads(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b"{}"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="manifest"):
        manifest.loads(data)


layer = functools.partial(formula_layer, m=2)


@pytest.mark.parametrize(
    ("given_shape", "layers", "words"),
    [
        ((-1, 3), (layer(3), layer(4)), "3 → 4 → 2"),
        ((-1, 9), (layer(3, pre_steps=(NodeStep(kind="select", indices=(0, 4, 8)),)), layer(4)), "9 → 4 → 2"),
        ((-1, 9), (layer(3), layer(4)), "9 → 3 → 4 → 2"),  # something else stands before the first layer
        ((-1, 1, 8, 8), (layer(64),), "1x8x8 → 64 → 2"),
        ((-1, 8, 5), (layer(5, positions=(8,)), layer(7, positions=(8,))), "8x5 → 8x7 → 2"),
        ((-1, 8, 5), (layer(9, positions=(6, 6)),), "8x5 → 6x6x9 → 2"),
        ((-1, 1, 8, 8), (), "1x8x8 → 2"),
    ],
)
def test_shapes_on_the_way_of_a_row(given_shape: tuple[int, ...], layers: tuple[LayerInfo, ...], words: str) -> None:
    assert manifest.arrows(manifest.row_shapes([given_shape], layers, [(-1, 2)])) == words


SCALERS = Scalers(
    inputs=Scaler(kind="min-max", offset=(0.5,) * 300, scale=(2.0,) * 300, range=(0.0, 1.0), name="s.json", sha256="0")
)
OWN = OutputInterval(quantile=1.0, points=(0.0,), spreads=(1.0,), width=2.0)


@pytest.fixture(scope="module")
def large() -> Manifest:
    """With a mask of 30,000 edges, rows of knots of several lengths, steps of numbers and indices, a scaler, and a
    certificate of many pairs."""
    rng = random.Random(7)
    small = toy_model.manifest("toy")
    mask = tuple(tuple(rng.random() for _ in range(200)) for _ in range(150))
    knots = tuple(tuple(sorted(rng.random() for _ in range(5 + at % 3))) for at in range(300))
    basis = BasisInfo(kind="bspline", functions=8, parameters={}, knots=knots)
    steps = (NodeStep(kind="select", indices=tuple(range(300))), NodeStep(kind="affine", scale=(1.5,) * 300))
    first = dataclasses.replace(small.layers[0], mask=mask, bases=(basis,), pre_steps=steps, bias=(0.0,) * 20)
    pairs = CertificateInfo(
        method="m",
        lipschitz=tuple((0.5 + at,) * 40 for at in range(10)),
        directions=tuple((at % 4,) * 40 for at in range(10)),
    )
    return dataclasses.replace(
        small, format=FORMAT, layers=(first, *small.layers[1:]), scalers=SCALERS, certificate=pairs
    )


@pytest.fixture(scope="module")
def divided(large: Manifest) -> tuple[Manifest, bytes]:
    """The manifest without its numbers, and the numbers."""
    bare, numbers = manifest.parts(large)
    assert numbers is not None
    return bare, numbers


def test_a_large_manifest_has_its_numbers_in_a_file_beside_it(large: Manifest, divided: tuple[Manifest, bytes]) -> None:
    bare, numbers = divided
    assert len(manifest.dumps(large)) > manifest.SMALL
    assert len(manifest.dumps(bare)) < 10_000
    assert {item.place for item in bare.stored} == {
        *("layers.0.mask", "layers.0.bases.0.knots", "layers.0.pre_steps.0.indices", "layers.0.pre_steps.1.scale"),
        *("scalers.inputs.offset", "scalers.inputs.scale", "certificate.lipschitz", "certificate.directions"),
    }
    assert manifest.loads(manifest.dumps(bare), numbers) == large
    assert manifest.loads(manifest.dumps(bare)) == bare
    assert bare.scalers.inputs.text(str) == "min-max (s.json): "
    small = toy_model.manifest("toy")
    assert manifest.parts(small) == (small, None)


def test_the_key_of_an_optional_section_may_be_missing() -> None:
    """Exports without it write no key."""
    small = toy_model.manifest("toy")
    document = json.loads(manifest.dumps(small))
    assert not {"scalers", "intervals", "certificate", "error_bars"} & {*document}
    section = Intervals(method="normalized", coverage=0.9, rows=20, outputs=(OWN, OWN))
    whole = dataclasses.replace(small, intervals=section)
    written = json.loads(manifest.dumps(whole))
    assert {*written} - {*document} == {"intervals"}
    assert manifest.loads(manifest.dumps(whole)) == whole
    written["intervals"]["more"] = 1
    with pytest.raises(ManifestError, match=r"manifest\.intervals: unknown key 'more'"):
        manifest.loads(json.dumps(written).encode())
    del written["intervals"]["more"], written["intervals"]["coverage"]
    with pytest.raises(ManifestError, match="intervals: key 'coverage' is missing"):
        manifest.loads(json.dumps(written).encode())


def turned(at: int, **changes: Any) -> Callable[[Manifest, bytes], tuple[Manifest, bytes]]:
    def change(bare: Manifest, numbers: bytes) -> tuple[Manifest, bytes]:
        stored = list(bare.stored)
        stored[at] = dataclasses.replace(stored[at], **changes)
        return dataclasses.replace(bare, stored=tuple(stored)), numbers

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda bare, numbers: (bare, numbers[:-1]), "more than the file"),
        (lambda bare, numbers: (bare, numbers + bytes(8)), "the file has"),
        (lambda bare, numbers: (bare, numbers[:-8] + b"\xff" * 8), "expected finite numbers"),
        (lambda bare, numbers: (bare, b"\xff" * 8 + numbers[8:]), "do not add up"),
        (turned(0, offset=8), "has an invalid kind, size or offset"),
        (turned(1, kind="complex"), "has an invalid kind, size or offset"),
        (turned(1, numbers=-1), "has an invalid kind, size or offset"),
        (turned(-1, numbers=10**12), "more than the file"),
        (turned(0, place="files"), "expected an object, found array"),
        (turned(0, place="layers.x.mask"), "has no empty list"),
        (turned(0, place="name.0"), "has no empty list"),
        (turned(0, place="notes"), "has no empty list"),
        (turned(0, place="layers.0.post_steps"), "expected an object, found"),
    ],
)
def test_numbers_that_are_not_those_of_the_manifest(
    divided: tuple[Manifest, bytes], change: Callable[[Manifest, bytes], tuple[Manifest, bytes]], says: str
) -> None:
    bare, numbers = change(*divided)
    with pytest.raises(ManifestError, match=says):
        manifest.loads(manifest.dumps(bare), numbers)


def test_a_manifest_that_cannot_be_small_is_not_written(large: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SIZE_LIMIT", manifest.SMALL)
    edge = SymbolicEdge(source=0, destination=0, function="sin", a=1.0, b=0.0, c=1.0, d=0.0, mask=1.0)
    layers = (dataclasses.replace(large.layers[0], symbolic=(edge,) * 5000), *large.layers[1:])
    with pytest.raises(ManifestError, match="the manifest is too large"):
        manifest.parts(dataclasses.replace(large, layers=layers))


def fields(kind: Any) -> set[str]:
    """The names of all fields of a dataclass and of the dataclasses in it."""
    names: set[str] = set()
    for name, hint in typing.get_type_hints(kind).items():
        names.add(name)
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                names |= fields(part)
    return names


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "manifest.md").read_text()
    missing = {name for name in fields(Manifest) if f"`{name}`" not in page and f".{name}`" not in page}
    assert missing == set()
    assert f"`format` is {FORMAT}." in page
