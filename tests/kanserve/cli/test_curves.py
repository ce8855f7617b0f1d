"""`kanserve curves`: a plot of one edge, a table of several edges, the file, and rejected arguments."""

from pathlib import Path

import numpy as np

from kanserve.plotting import characters
from tests.support.command_line import Server, wrong_refusals

EDGE = ("--layer", 0, "--source", 2, "--destination", 1)


def test_one_edge_is_a_picture_and_several_are_a_table(server: Server) -> None:
    title, *lines = server.shown("curves", "tiny", *EDGE).splitlines()
    assert title == "tiny version 1, edge 0:2:1 (x2 → 1)"
    assert sum("┤" in line for line in lines) == 12
    assert any(0x2800 < ord(character) <= 0x28FF for character in "".join(lines))
    assert lines[-1].endswith("the grid, up to the outermost knots and 2% more")
    table = server.shown("curves", "tiny", "--show", 3)
    assert "3 of 20 edges, by spread of φ" in table
    assert sum(any(bar in line for bar in characters.BARS) for line in table.splitlines()) == 3


def test_json_has_the_numbers_that_the_picture_has(server: Server) -> None:
    said = server.ask("curves", "tiny", "--layer", 1, "--points", 9)
    assert said["edges"] == 8
    spread = [max(item["phi"]) - min(item["phi"]) for item in said["curves"]]
    assert spread == sorted(spread, reverse=True)
    for item in said["curves"]:
        assert (len(item["x"]), item["domain"]) == (9, "grid")
        assert item["maximum"] == max(item["phi"])
        assert item["minimum_at"] == item["x"][int(np.argmin(item["phi"]))]


def test_the_file_of_one_edge_and_of_several(server: Server, tmp_path: Path) -> None:
    item, all_of = tmp_path / "one.npz", tmp_path / "all.npz"
    said = server.ask("curves", "tiny", *EDGE, "--output", item, "--derivative", "--parts")
    names = ("x", "phi", "derivative", "phi_bspline", "phi_silu")
    assert said["shapes"] == {key: [101] for key in names}
    server.ask("curves", "tiny", "--output", all_of)
    with np.load(item) as single, np.load(all_of) as several:
        np.testing.assert_array_equal(single["phi"], several["layer0_phi"][2, 1])
        np.testing.assert_array_equal(single["x"], several["layer0_x"][2])
        assert several["layer1_sources"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(single["phi_bspline"] + single["phi_silu"], single["phi"], atol=1e-6)
        slope = np.gradient(single["phi"].astype(np.float64), single["x"])
        np.testing.assert_allclose(single["derivative"][1:-1], slope[1:-1], atol=0.05 * np.abs(slope).max())


def test_what_is_refused(server: Server) -> None:
    cases = {
        "curves tiny --points 1": "--points 1: too few points, expected 2 to 1024",
        "curves tiny --points 5000": "points is 5000, expected 2 to 1024",
        "curves tiny --range 1 0": "the range of the curves is 1 to 0, expected",
        "curves tiny --layer head": "unknown layer 'head'",
        "curves tiny --output curves.csv": "curves.csv: unknown file format .csv",
    }
    assert wrong_refusals(cases, "--url", server.url) == []
    limit = "(20 edges x 1000 numbers), the limit is 16384\n"
    large = {"curves tiny --points 1000": ("error[response-too-large]", f"{limit}  help: request fewer layers")}
    assert wrong_refusals(large, "--url", server.url, code=1) == []
