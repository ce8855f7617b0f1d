"""`--baseline`: the statistics that the manifest stores, and the errors for invalid files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import baseline
from kanexport.contract import grids, manifest
from kanexport.contract.naming import Names
from kanexport.contract.sections import Baseline, NodeBaseline
from kanexport.errors import OptionError
from kanexport.pipeline import Request, export
from kanserve.repository import validation
from tests.support.golden_cases import cases

X = np.random.default_rng(5).normal(size=(200, 13)).astype(np.float32)


def exported(tmp_path: Path, baseline: Path, name: str = "efficient-kan-wine-update-grid", **more: Any) -> Any:
    (case,) = (case for case in cases() if case.name == name)
    request = Request(
        path=case.path, repository=tmp_path / "models", name="m", options=case.options, baseline=baseline, **more
    )
    return export(request).manifest


def test_counts_and_moments_of_every_node_are_kept_and_the_rows_are_not(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", X)
    result = exported(tmp_path, tmp_path / "train.npy")
    kept = result.baseline
    assert (kept.name, len(kept.sha256), kept.rows) == ("train.npy", 64, 200)
    np.testing.assert_allclose(kept.mean, X.mean(axis=0), rtol=1e-5, atol=1e-7)
    first, _ = kept.layers
    np.testing.assert_allclose(first.mean, X.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(first.std, X.std(axis=0), rtol=1e-5)
    assert [len(part.counts) for part in (*kept.layers, *kept.outputs)] == [13, 6, 3]
    assert {sum(counts) for counts in kept.outputs[0].counts} == {200}
    for layer, info in zip(kept.layers, result.layers, strict=True):
        for node, counts in enumerate(layer.counts):
            assert sum(counts) == 200
            knots = info.bases[0].knots[node if len(info.bases[0].knots) > 1 else 0]
            np.testing.assert_allclose(layer.cells[node if len(layer.cells) > 1 else 0], np.unique(knots), rtol=1e-6)
    inside = (X[:, 0] >= first.cells[0][0]) & (X[:, 0] <= first.cells[0][-1])
    assert sum(first.counts[0][1:-1]) == inside.sum()
    text = (tmp_path / "models" / "m" / "1" / "manifest.json").read_text()
    assert json.loads(text)["format"] == manifest.FORMAT
    assert str(float(X[3, 4]))[:8] not in text
    assert list(validation.limit_faults(result)) == []


def test_a_node_without_knots_is_counted_in_equal_parts_of_what_was_seen(tmp_path: Path) -> None:
    x = np.random.default_rng(2).uniform(-3, 5, (50, 30)).astype(np.float32)
    x[7, 2] = np.nan
    np.savez(tmp_path / "train.npz", x=x, y=np.zeros(3))
    result = exported(tmp_path, tmp_path / "train.npz", "fourierkan-breast-cancer").baseline.layers[0]
    assert (len(result.cells), len(result.counts[2])) == (30, grids.PARTS + 2)
    assert (result.cells[0][0], result.cells[0][-1]) == pytest.approx((x[:, 0].min(), x[:, 0].max()))
    assert (sum(result.counts[2]), result.nonfinite[2], result.nonfinite[3]) == (49, 1, 0)
    assert result.counts[0][0] <= 1  # rounding of a bound at most
    assert np.isfinite(result.mean).all()


def test_columns_are_put_in_the_model_s_order_by_their_names(tmp_path: Path) -> None:
    names = tuple(f"f{at}" for at in range(13))
    order = np.random.default_rng(0).permutation(13)
    lines = [",".join(names[at] for at in order)] + [",".join(str(row[at]) for at in order) for row in X.tolist()]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    result = exported(tmp_path, tmp_path / "train.csv", names=Names(features=names)).baseline
    np.testing.assert_allclose(result.mean, X.mean(axis=0), rtol=1e-5, atol=1e-6)
    (tmp_path / "other.csv").write_text("\n".join(["f0," * 12 + "f99", *lines[1:]]))
    with pytest.raises(OptionError, match=r"--baseline other\.csv: "):
        exported(tmp_path, tmp_path / "other.csv", names=Names(features=names), version=2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("one.npy", np.zeros((1, 13)), r"has float64 of shape \[1, 13\], expected 2 to"),
        ("flat.npy", np.zeros(13), r"has float64 of shape \[13\], expected 2 to"),
        ("wide.npy", np.zeros((5, 12)), r"rows of shape \[12\], expected \[13\]"),
        ("words.npy", np.array([["a"] * 13] * 3), "expected 2 to"),
        ("two.npz", {"a": np.zeros((5, 13)), "b": np.zeros(3)}, "found a, b, expected an array named x"),
        ("text.npy", b"no array", "cannot be read"),
        ("rows.csv", b"a,b\n", "has a header line and no rows"),
    ],
)
def test_a_bad_baseline_is_refused_and_nothing_is_written(tmp_path: Path, name: str, content: Any, words: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(OptionError, match=words):
        exported(tmp_path, path)
    assert not (tmp_path / "models" / "m").exists()
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        baseline.load(tmp_path / "none.npy")


BASE = NodeBaseline(
    cells=((0.0, 1.0, 2.0),), counts=((0, 3, 1, 0),) * 3, nonfinite=(0,) * 3, mean=(1.0,) * 3, std=(0.1,) * 3
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": ((0, 3, 1),) * 3}, "the counts of the baseline do not fit the bounds"),
        ({"counts": ((0, 3, -1, 0),) * 3}, "the counts of the baseline do not fit the bounds"),
        ({"cells": ((0.0, 0.0, 1.0),)}, "the bounds of the baseline's histogram do not ascend"),
        ({"cells": ((0.0,),)}, "do not ascend"),
        ({"cells": ((0.0, 1.0, 2.0),) * 2}, "the lists of the baseline do not have one entry for each of 3 nodes"),
        ({"mean": (1.0,)}, "the lists of the baseline do not have one entry for each of 3 nodes"),
        ({"counts": ()}, "the lists of the baseline do not have one entry for each of 0 nodes"),
    ],
)
def test_a_baseline_that_does_not_fit_its_model_is_a_reason_not_to_load(changes: dict[str, Any], words: str) -> None:
    from tests.kanserve.repository.test_validation import listed

    whole = Baseline(name="a", sha256="b", rows=4, mean=(0.0,) * 3, layers=(BASE, BASE), outputs=(BASE,))
    assert list(validation.limit_faults(dataclasses.replace(listed(), baseline=whole))) == []
    wrong = dataclasses.replace(whole, layers=(BASE, dataclasses.replace(BASE, **changes)))
    (fault,) = validation.limit_faults(dataclasses.replace(listed(), baseline=wrong))
    assert words in fault
    others: list[tuple[dict[str, Any], str]] = [
        ({"mean": ()}, "mean has 0 numbers, expected 3"),
        ({"layers": (BASE,)}, "has 1 layers, expected 2"),
        ({"outputs": ()}, "has 0 outputs, expected 1"),
    ]
    for more, said in others:
        (fault,) = validation.limit_faults(dataclasses.replace(listed(), baseline=dataclasses.replace(whole, **more)))
        assert said in fault


def _of_wine(tmp_path: Path, header: str) -> Path:
    path, rows = tmp_path / "train.csv", np.random.default_rng(0).normal(size=(8, 13))
    np.savetxt(path, rows, delimiter=",", header=header, comments="")
    return path


COLUMNS = tuple(f"column {at}" for at in range(13))


def test_the_header_of_the_baseline_rows_names_the_features(tmp_path: Path) -> None:
    path = _of_wine(tmp_path, ", ".join(COLUMNS))
    result = exported(tmp_path, path)
    assert result.names.features == COLUMNS
    assert "the header of train.csv names the features: 'column 0', 'column 1'" in " ".join(result.notes)
    supplied = tuple(reversed(COLUMNS))
    result = exported(tmp_path, path, version=2, names=Names(features=supplied))
    assert result.names.features == supplied
    assert "header" not in " ".join(result.notes)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (",".join(("", *COLUMNS[1:])), "'' is not a valid name"),
        (",".join(("a", "a", *COLUMNS[2:])), "'a' occurs twice"),
    ],
)
def test_a_header_that_names_no_features_is_a_warning(tmp_path: Path, header: str, words: str) -> None:
    result = exported(tmp_path, _of_wine(tmp_path, header))
    assert result.names == Names()
    (note,) = [note for note in result.notes if "the header of train.csv has no valid feature names" in note]
    assert words in note


def test_a_frame_is_baseline_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], " b": [3, 4]})
    rows = baseline.rows_of(frame)
    assert (rows.columns, rows.name, rows.x.tolist()) == (("a", "b"), "a DataFrame", [[1.0, 3.0], [2.0, 4.0]])
    with pytest.raises(OptionError, match="a DataFrame has object"):
        baseline.rows_of(pandas.DataFrame({"a": ["x", "y"]}))
