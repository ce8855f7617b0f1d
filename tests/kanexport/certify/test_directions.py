"""Directions of single edges: all are decided, and points show what the words say."""

import numpy as np

from kanexport.certify import certificate, directions
from kanexport.certify.edges import Edges, Table
from kanexport.certify.propagation import Network
from kanexport.functions.elementwise import SYMBOLIC
from kanexport.ir.model import Layer, SymbolicEdge
from kanexport.shared.sections import DECREASING, INCREASING, NEITHER, UNDECIDED
from tests.support.golden_cases import network
from tests.support.tiers import spread


@spread(
    "name", ["efficient-kan-wine-update-grid", "relu-kan-hello", "rbf-kan-diabetes", "wav-kan-dog-breast-cancer"], 2
)
def test_directions_of_edges(name: str) -> None:
    """All edges are decided, and pairs of points show edges that rise and fall."""
    kan = network(name)
    for stage in Network.of(kan, *certificate.grid_box(kan)).stages:
        table, found = stage.table, directions.of_edges(stage.table)
        change = np.diff(table.edges.values(np.linspace(stage.low, stage.high, 500)), axis=0)
        noise = 1e-8 * (1 + np.abs(table.value).max())
        for i, o in np.ndindex(table.value.shape[1:]):
            word = found.words[i][o]
            assert word != UNDECIDED
            assert word != INCREASING or change[:, i, o].min() >= -noise
            assert word != DECREASING or change[:, i, o].max() <= noise
            if word == NEITHER:
                sources = np.zeros((4, table.value.shape[1]))
                sources[:, i] = found.points[i, o].ravel()
                rise, fall = np.diff(table.edges.values(sources)[:, i, o])[::2]
                assert rise > 0 > fall
                assert (np.diff(found.points[i, o]) > 0).all()


def test_words_of_known_functions() -> None:
    """Also of a cubic, whose slope is zero inside, and of a square."""
    cases = {"x^3": INCREASING, "x^2": NEITHER, "arctan": INCREASING, "exp": INCREASING, "gaussian": NEITHER}
    edges = tuple(SymbolicEdge(0, at, SYMBOLIC[name], 1.0, 0.0, 1.0, 0.0, 1.0) for at, name in enumerate(cases))
    down = SymbolicEdge(0, len(cases), SYMBOLIC["x^3"], 1.0, 0.0, -2.0, 0.0, 1.0)
    count = len(cases) + 1
    layer = Layer((), np.ones((1, count)), np.zeros(count), np.ones((1, count), dtype=bool), (*edges, down))
    table = Table.of(Edges.of(layer), np.array([-1.3]), np.array([1.7]))
    assert directions.of_edges(table).words == ((*cases.values(), DECREASING),)
