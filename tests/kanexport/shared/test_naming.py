"""Names of a model's inputs and outputs: formats, checks, and use for the order of columns."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.shared import naming
from kanexport.shared.naming import UNNAMED, Names, NamingError

FEATURES = ("alcohol", "malic acid", "ash")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("rows.csv", "alcohol, malic acid,ash\n1,2,3\n", FEATURES),
        ("rows.csv", '"a,b",c\n1,2\n', ("a,b", "c")),
        ("names.txt", "alcohol\n\n malic acid \nash", FEATURES),
        ("names.json", '["alcohol", "malic acid", "ash"]', FEATURES),
        ("", 'alcohol, "a, b",ash', ("alcohol", "a, b", "ash")),
        ("", "", ()),
    ],
)
def test_names_come_from_files_or_as_text(tmp_path: Path, file: str, content: str, expected: tuple[str, ...]) -> None:
    if file:
        (tmp_path / file).write_text(content)
    assert naming.parse("--features", str(tmp_path / file) if file else content) == expected
    assert naming.parse("--units", "%,,g") == ("%", "", "g")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("none.csv", None, "cannot be read: No such file or directory"),
        ("rows.csv", "1,2,3\n", "has no names, expected a header line"),
        ("names.txt", "", "has no names"),
        ("names.json", '{"a": 1}', "is not a list of names"),
        ("names.json", "[1]", "is not a list of names"),
        ("names.json", "[", "is not valid JSON"),
        ("rows.csv", b"\xff\xff", "is not UTF-8 text"),
    ],
)
def test_files_without_names(tmp_path: Path, file: str, content: str | bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NamingError, match=says):
        naming.parse("--features", str(tmp_path / file))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (Names(("a",)), "found 1 features, expected 3: one per input of the model"),
        (Names(units=("a", "b", "c")), "found units without features"),
        (Names(units=("a",)), "found 1 units, expected 3: one per input of the model"),
        (Names(classes=("a",)), "found 1 classes, expected 2: one per output of the model"),
        (Names(("a", "b", "a")), "features: 'a' occurs twice"),
        (Names(classes=("a", "a")), "classes: 'a' occurs twice"),
        (Names(("a", "", "b")), "features: '' is not a valid name"),
        (Names(("a", "b\n", "c")), "is not a valid name, expected 1 to 128 printable characters"),
        (Names(("a", "b" * 129, "c")), "is not a valid name"),
        (Names(("a", " b", "c")), "is not a valid name"),
        (Names(units=("a", "b\x1b[2J", "c")), "units: .* is not a valid name"),
        (Names(description="d" * 4097), "the description has 4097 characters, expected at most 4096"),
    ],
)
def test_names_that_do_not_fit(names: Names, says: str) -> None:
    with pytest.raises(NamingError, match=says):
        names.check(3, 2)


def test_names_that_fit() -> None:
    UNNAMED.check(3, 2)
    Names(FEATURES, ("%", "%", ""), ("yes", "no"), "Wines.").check(3, 2)
    assert (UNNAMED.feature(2), UNNAMED.output(1), bool(UNNAMED)) == ("x2", "y1", False)
    assert (Names(FEATURES).feature(2), Names(classes=("yes", "no")).output(1)) == ("ash", "no")
    assert bool(Names(description="d"))
    assert UNNAMED.order(["b", "a"]) is None
    assert Names(FEATURES).order([]) is None
    assert naming.sizes([(-1, 2, 3), (-1, 4)], [(-1, 5)]) == (10, 5)


@given(st.permutations(FEATURES))
def test_columns_are_put_in_the_order_of_the_features(columns: list[str]) -> None:
    order = Names(FEATURES).order(columns)
    assert order is not None
    assert [columns[at] for at in order] == list(FEATURES)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["alcohl", "malic acid", "ash"], "missing column 'alcohol', found 'alcohl'"),
        (["Q"], "missing column 'alcohol', 'malic acid', 'ash'$"),
        ([*FEATURES, "more"], "unknown column 'more', which is not one of the 3 features"),
        ([*FEATURES, "ash"], "the column 'ash' occurs twice"),
    ],
)
def test_columns_that_are_not_the_features(columns: list[str], says: str) -> None:
    with pytest.raises(NamingError, match=says):
        Names(FEATURES).order(columns)
