"""Network view of the web UI: search, open and fold edges, in small and large networks; the page of one edge."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.shared import step_rules
from kanexport.shared.manifest import NodeStep
from tests.integration.ui.conftest import opened
from tests.support.server_process import Server
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("second browser page")


def test_click_an_edge(page: Any) -> None:
    opened(page, "ui/hello")
    assert page.locator(".network .edge .curve").count() == 3
    assert {"length", "width", "y0"} <= set(page.locator(".network text").all_text_contents())
    assert page.locator(".network text").evaluate_all("(all) => all.map((one) => getComputedStyle(one).stroke)") == (
        ["none"] * 4
    )
    page.get_by_role("link", name="length → node 0 of layer 1: symbolic").locator(".box").click()
    page.get_by_role("heading", name="length → node 0 of layer 1").wait_for()
    assert page.url.endswith("/ui/hello/edge/0/0/0")
    page.go_back()
    page.get_by_role("heading", name="hello, version 1").wait_for()


STEPS = [
    (NodeStep(kind="select", indices=(3, 0, 2)),),
    (NodeStep(kind="product", indices=(1, 2, 3)),),
    (NodeStep(kind="product", indices=(2, 2)), NodeStep(kind="select", indices=(1,))),
    (NodeStep(kind="affine", scale=(2.0, 3.0), bias=(0.0, 1.0)),),
]


def test_the_map_follows_nodes_as_the_step_rules_do(page: Any) -> None:
    """names.js repeats which nodes a step reads. The step rules say so by the differences that they propagate."""
    opened(page, "ui/hello")
    call = """async ([layer, name, count]) => {
        const names = await import('/ui/static/names.js');
        return [...Array(count).keys()].map((at) => names[name](layer, at));
    }"""
    for steps in STEPS:
        reads = read_nodes(steps)
        described = [dataclasses.asdict(step) for step in steps]
        layer = {"pre_steps": described, "post_steps": described}
        destinations = page.evaluate(call, [layer, "nodeOfDestination", reads.shape[1]])
        assert destinations == [int(column.argmax()) if column.any() else None for column in reads.T]
        if all(step.kind != "product" for step in steps):
            sources = page.evaluate(call, [layer, "nodeOfSource", len(reads)])
            assert sources == [int(row.argmax()) for row in reads]


def read_nodes(steps: tuple[NodeStep, ...]) -> np.ndarray:
    """[nodes after the steps, nodes before]: whether one depends on the other."""
    width = sum(steps[0].indices) if steps[0].kind == "product" else 4 if steps[0].kind == "select" else 2
    values = [np.full((1, width), 2.0)]
    for step in steps:
        values.append(step_rules.evaluate(step, values[-1]))
    multipliers = np.eye(values[-1].shape[1])[None]
    for step, v in reversed(list(zip(steps, values, strict=False))):
        multipliers = step_rules.backpropagate_multipliers(step, v, 0.5 * v, multipliers)
    return multipliers[0] != 0


def test_each_activation_is_a_base_branch_on_the_page(page: Any) -> None:
    opened(page, "ui/hello")
    call = """async (kinds) => {
        const charts = await import('/ui/static/charts/edge.js');
        return kinds.map((kind) => charts.style(kind)[0]);
    }"""
    assert set(page.evaluate(call, [*ACTIVATIONS, "prelu", "swish"])) == {"of-base"}


def test_the_map_says_what_matters(page: Any) -> None:
    opened(page, "ui/hello")
    rows = page.get_by_role("region", name="Edges of a layer").locator("tbody tr")
    rows.first.wait_for()
    values = [float(row.locator("td").last.inner_text()) for row in rows.all()]
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    page.get_by_label("Find node").fill("wid")
    until(lambda: rows.count() == 1)
    assert rows.first.inner_text().startswith("width")
    assert page.locator(".network .edge").count() == 1


def test_what_leads_to_a_node_folds(page: Any) -> None:
    opened(page, "ui/hello")
    assert page.locator(".network .edge").count() == 3
    node = page.get_by_role("button", name="node 0 of layer 1: fold incoming edges")
    node.focus()
    page.keyboard.press("Enter")
    until(lambda: page.locator(".network .edge").count() == 1)
    assert page.locator(".network .spot.folded").count() == 1
    page.keyboard.press("Enter")  # the focus is still there
    until(lambda: page.locator(".network .edge").count() == 3)


def test_a_large_network_shows_its_strongest_edges_in_layers_and_their_curves(page: Any) -> None:
    scores = page.request.post("v1/kan/models/digits/scores", data={"source": "best"}).json()["layers"]
    opened(page, "ui/digits")
    page.get_by_text("64 of 1\N{NARROW NO-BREAK SPACE}184 edges: the strongest of each layer").wait_for()
    page.get_by_label("Edges shown").select_option("16")
    edges = page.locator(".network .edge")
    until(lambda: edges.count() == 16)
    drawn = {edges.nth(at).get_attribute("data-edge") for at in range(16)}
    importance = [np.abs(layer["edges"]).ravel() for layer in scores]
    assert drawn == {f"{at}/{edge}" for at, own in enumerate(importance) for edge in np.argsort(-own)[:8]}
    weights = np.abs(scores[0]["nodes"])
    inputs = page.locator(".network .spot[data-key^='0/']").evaluate_all("(all) => all.map((one) => one.dataset.key)")
    sources = {int(key.split("/")[1]) // 16 for key in drawn if key.startswith("0/")}
    assert inputs == [f"0/{node}" for node in sorted(sources, key=lambda node: -weights[node])]
    assert page.get_by_text(f"{len(inputs)} of 64", exact=True).count() == 1
    card = page.get_by_role("status").filter(has_text="importance")
    edges.locator("xpath=self::*[@tabindex='0']").focus()
    page.keyboard.press("ArrowRight")  # the second strongest edge of the first layer
    source, destination = divmod(int(np.argsort(-importance[0])[1]), 16)
    name = f"x{source} → node {destination} of layer 1"
    card.filter(has_text=f"{name}, numeric, importance").filter(has_text=" over ").wait_for()
    card.get_by_role("img", name=f"Curve of {name}").locator(".line.edge").wait_for()
    page.locator(".network .edge[data-edge^='1/']").last.dispatch_event("pointerover")
    card.filter(has_text=" → y").filter(has_text="Values ").wait_for()


def test_traffic_outside_the_grid_glows(page: Any, server: Server) -> None:
    server.infer(np.full((50, 64), 40.0, np.float32), model="digits")
    opened(page, "ui/digits")
    page.locator(".network .spot.glows").first.wait_for()
    assert "out of grid" in page.locator(".network .spot.glows").first.get_attribute("aria-label")


def test_an_edge_has_its_parts_its_pictures_and_its_table(page: Any) -> None:
    opened(page, "ui/digits/edge/0/10/3")
    for name, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as result:
            page.get_by_role("button", name=f"Save as {name}").click()
        data = Path(result.value.path()).read_bytes()
        assert data.startswith(begins)
        assert len(data) > 5000
    assert page.locator("svg .line.part").count() == 2
    assert page.locator("svg .knot").count() == 12
    page.get_by_label("Slope").check()
    assert page.locator("svg .line.slope").count() == 1
    page.get_by_label("Knots").uncheck()
    assert page.locator("svg .knot").count() == 0
    with page.expect_download() as result:
        page.get_by_role("button", name="Save as CSV").click()
    table = np.genfromtxt(result.value.path(), delimiter=",", names=True)
    assert table.dtype.names == ("x", "phi", "bspline", "silu", "slope")
    np.testing.assert_allclose(table["phi"], table["bspline"] + table["silu"], atol=1e-6)
    page.get_by_role("form", name="Edge").get_by_role("button", name="Next").click()
    page.get_by_role("heading", name="x10 → node 4 of layer 1").wait_for()


def test_an_edge_has_what_its_input_was(page: Any, server: Server) -> None:
    server.infer(np.random.default_rng(1).normal(0.3, 0.5, (100, 2)).astype(np.float32), model="hello")
    opened(page, "ui/hello/edge/0/1/0")
    page.locator("svg .seen.live").wait_for()
    assert page.locator("svg .seen.reference").count() == 1
    assert page.get_by_text("Baseline: 400 values").count() == 1
    assert "Formula" in page.locator("dl").inner_text()


def test_the_curve_is_drawn_where_it_is(page: Any) -> None:
    """Compared with the values of the server: to 0.01 pixels, the thumbnail of the network to 0.1 pixels."""
    opened(page, "ui/digits/edge/0/10/3")
    requested = {"layers": [0], "sources": [10], "destinations": [3], "points": 257}
    response = page.request.post("v1/kan/models/digits/curves", data=requested)
    (block,) = response.json()["blocks"]
    drawn = path(page.locator("svg .line.total").first.get_attribute("d"))
    assert placed(drawn[:, 0], np.array(block["x"][0])) < 0.011
    assert placed(drawn[:, 1], np.array(block["phi"][0][0])) < 0.011
    opened(page, "ui/hello")
    (block,) = page.request.post("v1/kan/models/hello/curves", data={"layers": [1], "points": 33}).json()["blocks"]
    drawn = path(page.locator(".edge[href='ui/hello/edge/1/0/0'] .curve").get_attribute("d"))
    assert placed(drawn[:, 1], np.array(block["phi"][0][0])) < 0.11


def path(text: str | None) -> np.ndarray:
    """Points of a path without gaps."""
    assert text is not None
    assert text.count("M") == 1
    return np.array([tuple(map(float, pair.split())) for pair in text.removeprefix("M").split("L")])


def placed(pixels: np.ndarray, values: np.ndarray) -> float:
    """How far pixels are from the straight scale that fits best, at most."""
    fit = np.polyfit(values, pixels, 1)
    return float(np.abs(np.polyval(fit, values) - pixels).max())
