"""Tests of `graph/vector_cells.py`."""

from kanexport.graph.vector_cells import Cell, Fuser

X, ONE, TWO = Cell("input"), Cell("const", value=1.0), Cell("const", value=2.0)


def fused(*cells: Cell) -> Cell:
    """The last cell, which is the result."""
    return Fuser(list(cells), [len(cells) - 1]).fused()[len(cells) - 1]


def test_the_order_of_a_product_in_a_difference_is_kept() -> None:
    product = Cell("Mul", (0, 1))
    assert fused(X, TWO, product, ONE, Cell("Add", (3, 2))) == Cell("MulAdd", (0, 1, 3))
    assert fused(X, TWO, product, ONE, Cell("Sub", (2, 3))) == Cell("MulSub", (0, 1, 3))
    assert fused(X, TWO, product, ONE, Cell("Sub", (3, 2))) == Cell("SubMul", (0, 1, 3))


def test_a_bell_needs_a_square_and_a_constant() -> None:
    square = Cell("Mul", (0, 0))
    assert fused(X, TWO, square, Cell("Mul", (2, 1)), Cell("Exp", (3,))) == Cell("Bell", (0, 1))
    assert fused(X, TWO, Cell("Mul", (0, 1)), Cell("Mul", (2, 1)), Cell("Exp", (3,))).kind == "Exp"
    assert fused(X, square, Cell("Exp", (1,))).kind == "Exp"


def test_a_hat_is_two_differences_around_a_bell() -> None:
    bell, left, right = Cell("Bell", (0, 2)), Cell("Affine", (0, 1, 2)), Cell("Add", (0, 1))
    times = Cell("Mul", (4, 3))
    cells = [X, ONE, TWO, bell, left, times, right, Cell("Mul", (5, 6))]
    fuser = Fuser(cells, [7])
    fused_cells = fuser.fused()
    assert fused_cells[5] == Cell("BellTimes", (4, 0, 2))
    of = fused_cells[7].of
    assert fused_cells[7] == Cell("Affine", (0, of[1], 5))
    assert fused_cells[of[1]] == Cell("const", value=-1.0)


def test_a_hill_is_a_quotient_of_one_exponential_and_of_a_distance_a_ridge() -> None:
    power, above = Cell("Exp", (0,)), Cell("Add", (1, 2))
    assert fused(X, power, ONE, above, Cell("Mul", (3, 3)), Cell("Div", (1, 4))) == Cell("Hill", (0,))
    assert fused(X, power, TWO, above, Cell("Mul", (3, 3)), Cell("Div", (1, 4))).kind == "Div"
    apart, power, above = Cell("Distance", (0, 1, 2)), Cell("Exp", (3,)), Cell("Add", (4, 1))
    cells = (X, ONE, TWO, apart, power, above, Cell("Mul", (5, 5)), Cell("Div", (4, 6)))
    assert fused(*cells) == Cell("Ridge", (0, 1, 2))
    assert Fuser([*cells, Cell("Mul", (3, 7))], [8]).fused()[7] == Cell("Hill", (3,))
