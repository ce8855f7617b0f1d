"""`--baseline`: the statistics that the manifest stores, and the errors for invalid files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bundle import baseline
from kanexport.errors import OptionError
from kanexport.shared import grids, manifest
from kanexport.shared.naming import Names
from kanexport.shared.sections import Baseline, NodeBaseline
from kanserve.repository import validation
from tests.kanserve.repository.test_validation import listed
from tests.support import golden_cases

X = np.random.default_rng(5).normal(size=(200, 13)).astype(np.float32)


def exported(tmp_path: Path, baseline: Path, name: str = "efficient-kan-wine-update-grid", **more: Any) -> Any:
    return golden_cases.exported(name, tmp_path / "models", baseline=baseline, **more).manifest


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
        ("none.npy", None, "cannot be read: No such file"),
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
    elif content is not None:
        np.save(path, content)
    with pytest.raises(OptionError, match=words):
        exported(tmp_path, path)
    assert not (tmp_path / "models" / "m").exists()


BASE = NodeBaseline(
    cells=((0.0, 1.0, 2.0),), counts=((0, 3, 1, 0),) * 3, nonfinite=(0,) * 3, mean=(1.0,) * 3, std=(0.1,) * 3
)
WHOLE = Baseline(name="a", sha256="b", rows=4, mean=(0.0,) * 3, layers=(BASE, BASE), outputs=(BASE,))


def of_a_node(**changes: Any) -> dict[str, Any]:
    return {"layers": (BASE, dataclasses.replace(BASE, **changes))}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": ()}, "mean has 0 numbers, expected 3"),
        ({"layers": (BASE,)}, "has 1 layers, expected 2"),
        ({"outputs": ()}, "has 0 outputs, expected 1"),
        (of_a_node(counts=((0, 3, 1),) * 3), "the counts of the baseline do not fit the bounds"),
        (of_a_node(counts=((0, 3, -1, 0),) * 3), "the counts of the baseline do not fit the bounds"),
        (of_a_node(cells=((0.0, 0.0, 1.0),)), "the bounds of the baseline's histogram do not ascend"),
        (of_a_node(cells=((0.0,),)), "do not ascend"),
        (
            of_a_node(cells=((0.0, 1.0, 2.0),) * 2),
            "the lists of the baseline do not have one entry for each of 3 nodes",
        ),
        (of_a_node(mean=(1.0,)), "the lists of the baseline do not have one entry for each of 3 nodes"),
        (of_a_node(counts=()), "the lists of the baseline do not have one entry for each of 0 nodes"),
    ],
)
def test_a_baseline_that_does_not_fit_its_model_is_a_reason_not_to_load(changes: dict[str, Any], words: str) -> None:
    assert list(validation.limit_faults(dataclasses.replace(listed(), baseline=WHOLE))) == []
    (fault,) = validation.limit_faults(dataclasses.replace(listed(), baseline=dataclasses.replace(WHOLE, **changes)))
    assert words in fault


COLUMNS = tuple(f"column {at}" for at in range(13))


@pytest.mark.parametrize(
    ("columns", "supplied", "features", "words"),
    [
        (COLUMNS, (), COLUMNS, "the header of train.csv names the features: 'column 0', 'column 1'"),
        (COLUMNS, COLUMNS[::-1], COLUMNS[::-1], ""),
        (("", *COLUMNS[1:]), (), (), "has no valid feature names: features: '' is not a valid name"),
        (("a", "a", *COLUMNS[2:]), (), (), "has no valid feature names: features: 'a' occurs twice"),
    ],
)
def test_the_header_of_the_baseline_rows_names_the_features_or_is_a_warning(
    tmp_path: Path, columns: tuple[str, ...], supplied: tuple[str, ...], features: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "train.csv"
    np.savetxt(path, X[:8], delimiter=",", header=", ".join(columns), comments="")
    result = exported(tmp_path, path, names=Names(features=supplied))
    assert result.names.features == features
    notes = [note for note in result.notes if "header" in note]
    assert len(notes) == bool(words)
    assert words in "".join(notes)


def test_a_frame_is_baseline_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], " b": [3, 4]})
    rows = baseline.rows_of(frame)
    assert (rows.columns, rows.name, rows.x.tolist()) == (("a", "b"), "a DataFrame", [[1.0, 3.0], [2.0, 4.0]])
    with pytest.raises(OptionError, match="a DataFrame has object"):
        baseline.rows_of(pandas.DataFrame({"a": ["x", "y"]}))
