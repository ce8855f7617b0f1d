"""Edits from arguments and files: each form, and messages for values that are not valid."""

import json
from pathlib import Path

import pytest

from kanexport.edit import operations
from kanexport.edit.operations import EdgeEdit
from kanexport.errors import OptionError


def test_an_edge_has_three_numbers() -> None:
    assert {operations.edge_of(text) for text in ("0:2:1", "0,2,1", " 0:2:1 ")} == {(0, 2, 1)}
    for text in ("", "0:2", "0:2:1:1", "0:-2:1", "a:b:c", "0:2:1.5", "0:2:٣"):
        with pytest.raises(OptionError, match="not LAYER:SOURCE:DESTINATION"):
            operations.edge_of(text)


def test_an_operation_and_its_text() -> None:
    for operation, value, summary in (
        ("to", "1.2*sin(x)", "to 1.2*sin(x)"),
        ("to", 0.5, "to 0.5"),
        ("zero", True, "zero"),
        ("clamp", "-1:2", "clamp -1:2"),
        ("clamp", [-1, 2.5], "clamp -1:2.5"),
        ("monotone", "down", "monotone down"),
        ("shift", "-0.25", "shift -0.25"),
        ("raise", 3, "raise 3"),
        ("points", [[0, 1], [0.5, 2]], "points 2 points"),
    ):
        edit = operations.parse("1:0:3", operation, value)
        assert (edit.edge, edit.name, edit.summary) == ((1, 0, 3), "1:0:3", summary)


def test_a_value_that_is_not_valid_is_named() -> None:
    for operation, value, message in (
        ("clamp", "2:-1", "the lowest value 2 is above the highest value -1"),
        ("clamp", "1", "expected LOW:HIGH"),
        ("clamp", "nan:1", "expected a finite number"),
        ("clamp", [1, True], "expected a finite number"),
        ("monotone", "left", "expected up or down"),
        ("shift", "inf", "expected a finite number"),
        ("raise", None, "expected a finite number"),
        ("zero", False, "expected true"),
        ("to", ["x"], "expected an expression"),
        ("points", [], "0 entries"),
        ("points", [[1, 2], [3]], "not all pairs"),
        ("points", [[1, "y"]], "expected a finite number"),
        ("points", 3, "expected 1 to"),
        ("twist", 1, "unknown operation 'twist'"),
    ):
        with pytest.raises(OptionError, match=message):
            operations.parse("0:0:0", operation, value)


def test_files_have_many_edits(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("x,y\n0,1\n0.5,2\n")
    edits = [{"edge": "0:1:2", "to": "sin(x)"}, {"edge": [1, 0, 0], "points": "curve.csv"}]
    (tmp_path / "edits.json").write_text(json.dumps({"edits": edits}))
    (tmp_path / "edits.toml").write_text(
        '[[edits]]\nedge = "0:1:2"\nto = "sin(x)"\n[[edits]]\nedge = [1, 0, 0]\npoints = "curve.csv"\n'
    )
    expected = (
        EdgeEdit(0, 1, 2, "to", "sin(x)"),
        EdgeEdit(1, 0, 0, "points", "curve.csv", points=((0.0, 1.0), (0.5, 2.0))),
    )
    assert operations.load(tmp_path / "edits.json") == operations.load(tmp_path / "edits.toml") == expected


def test_a_file_that_is_not_valid_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        operations.load(tmp_path / "edits.json")
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "has no list of edits"),
        ('{"edits": [1]}', "edit 0 of edits.json has the operations none"),
        ('{"edits": [{"edge": "0:0:0"}]}', "has the operations none"),
        ('{"edits": [{"edge": "0:0:0", "zero": true, "shift": 1}]}', "shift, zero, expected an edge and one operation"),
        ('{"edits": [{"edge": "0:0:0", "shift": "far"}]}', "edit 0 of edits.json: shift: found 'far'"),
        ('{"edits": [{"edge": "0:0:0", "points": "none.csv"}]}', "none.csv cannot be read"),
        ('[{"edge": "0:0:0", "zero": true}, {"edge": "0,0,0", "shift": 1}]', "0:0:0 has more than one operation"),
    ):
        (tmp_path / "edits.json").write_text(text)
        with pytest.raises(OptionError, match=message):
            operations.load(tmp_path / "edits.json")
    (tmp_path / "three.csv").write_text("1,2,3\n")
    with pytest.raises(OptionError, match=r"has the shape \[1, 3\]"):
        operations.parse("0:0:0", "points", "three.csv", folder=tmp_path)
