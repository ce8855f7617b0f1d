"""Content of the report of an edit."""

from kanexport.shared.naming import Names
from kanserve.report import edit_content
from kanserve.report.page import Grid


def test_changed_classes() -> None:
    difference = {
        "rows": 9, "rows_from": "rows.csv", "outputs": [], "worst_row": None, "changed": 3,
        "flips": [{"before": "cat", "after": "dog", "rows": 3}], "not_finite": [0, 2], "curves": [],
        "certificates": None, "certificates_note": "not requested",
    }  # fmt: skip
    edit = {"parent_version": 1, "parent_sha256": "", "author": ""}
    about = {"name": "pets", "version": 2, "directory": None, "verified": "", "notes": []}
    grids = [part for part in edit_content.report({**about, "edit": edit, "difference": difference}, Names()).parts]
    shown = {part.heading: part for part in grids if isinstance(part, Grid)}
    assert shown["Changed classes"].lines == [("cat", "dog", "3")]
    assert "another one on 3 of 9 rows (rows.csv)" in shown["Changed classes"].remark
    assert "not finite: 0 before, 2 after" in shown["Change of the outputs"].remark
