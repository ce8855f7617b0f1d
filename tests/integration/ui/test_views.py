"""Explain, drift, operations and model card views in a real browser, compared with the client's results."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanexport.shared import manifest
from kanserve.client.sync import Client
from tests.integration.ui.conftest import GOLDEN, Seen, watched
from tests.support import credentials
from tests.support.command_line import document, exported, kanserve
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

ROW = [0.3, -0.2]

pytestmark = full("second browser page")


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this module's own, in which versions come."""
    folder = tmp_path_factory.mktemp("views") / "models"
    shutil.copytree(repository, folder)
    return folder


@pytest.fixture(scope="module")
def own(models: Path) -> Iterator[Server]:
    """A server that analyses every row, and keeps some."""
    pytest.importorskip("h2corn")
    with serving(models, transport="asgi", statistics="full", sample_rows=20, repository_poll_seconds=0.2) as running:
        yield running


@pytest.fixture
def at(browse: Callable[..., Any], own: Server) -> Callable[..., Any]:
    """Opens a page of the server of this module."""
    return lambda path: browse(own, path)


def explained(server: Server, row: list[float], **requested: Any) -> Any:
    with Client(server.address) as client:
        return client.explain("hello", np.array([row], np.float32), **requested)


def big(page: Any) -> float:
    return float(page.locator(".big strong").inner_text())


def test_which_input_moved_a_prediction_is_said_at_once(at: Any, own: Server) -> None:
    page = at(f"ui/hello/explain#row={ROW[0]},{ROW[1]}")
    page.get_by_role("heading", name="Feature contributions").wait_for()
    truth = explained(own, ROW)
    assert big(page) == pytest.approx(truth.predictions[0, 0], rel=1e-3)
    strongest = int(np.abs(truth.contributions[0, :, 0]).argmax())
    story = page.locator(".story").inner_text()
    assert story.startswith(f"{('length', 'width')[strongest]} = ")
    shown = [
        text.rsplit(": ", 1)[1].replace("\N{MINUS SIGN}", "-")
        for text in page.locator(".waterfall .step title").all_text_contents()
    ]
    order = np.argsort(-np.abs(truth.contributions[0, :, 0]))
    np.testing.assert_allclose([float(item) for item in shown], truth.contributions[0, order, 0], rtol=2e-2, atol=1e-6)
    assert page.locator(".cover.good").count() == 1
    assert page.locator(".dots figure").count() == 3  # of three edges
    assert page.locator(".path .flow").count() == 3


def test_a_slider_moves_the_prediction_and_the_dots(at: Any, own: Server) -> None:
    page = at(f"ui/hello/explain#row={ROW[0]},{ROW[1]}")
    page.locator(".dots figure").first.wait_for()
    dots = page.locator(".dots .here circle")
    before, places = big(page), [(item.get_attribute("cx"), item.get_attribute("cy")) for item in dots.all()]
    slider = page.get_by_role("slider", name="length, slider")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    shown = "document.querySelector('.big strong').textContent"
    page.wait_for_function(f"before => Math.abs(Number({shown}) - before) > 0.01", arg=before)
    value = float(slider.input_value())
    assert value > ROW[0]
    page.wait_for_function("value => location.hash.startsWith(`#row=${value}`)", arg=float(f"{value:.9g}"))
    assert big(page) == pytest.approx(explained(own, [value, ROW[1]]).predictions[0, 0], rel=1e-3)
    assert [(item.get_attribute("cx"), item.get_attribute("cy")) for item in dots.all()] != places


def test_a_link_leads_back_and_goes_to_no_log(at: Any, own: Server) -> None:
    page = at("ui/hello/explain")
    page.locator(".waterfall").wait_for()
    page.get_by_role("textbox", name="length").fill("0.6125")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('0.6125')")
    page.get_by_label("Reference").select_option("zeros")
    page.wait_for_function("() => location.hash.includes('reference=zeros')")
    page.get_by_role("button", name="Copy link").wait_for()
    shown, address = page.locator(".big").inner_text(), page.url.split("/", 3)[3]
    again = at(address)
    again.locator(".waterfall").wait_for()
    assert again.locator(".big").inner_text() == shown
    assert "zeros" in shown
    assert "0.6125" not in own.log.read_text()


def test_a_row_is_pasted_and_what_is_wrong_with_one_is_said(at: Any) -> None:
    page = at("ui/hello/explain")
    page.get_by_text("Paste a row").click()

    def paste(text: str) -> None:
        page.get_by_label("A row as JSON or CSV").fill(text)
        page.get_by_role("button", name="Explain this row").click()

    for text, value in (
        ('{"width": 0.5, "length": -0.25}', "-0.25"),
        ("[[0.125, 0.5], [9, 9]]", "0.125"),
        ("width;length\n0.5;0.75", "0.75"),
        ("0.375, 0.5", "0.375"),
    ):
        paste(text)
        page.wait_for_function("value => document.querySelector('[aria-label=\"length\"]').value === value", arg=value)
        page.wait_for_function("value => location.hash.startsWith(`#row=${value},0.5`)", arg=value)
    before = page.url
    for text, words in (
        ("", "text is empty"),
        ("1,2,3", "3 numbers, expected 2"),
        ('{"length": 1, "widht": 2}', "no input widht"),
        ('{"length": 1}', "width is missing"),
        ('{"length": 1, "width": "x"}', "width is not a number"),
        ("{", "not valid JSON"),
        ("a,b\n1,2", "no input a"),
    ):
        paste(text)
        page.get_by_role("alert").filter(has_text=words).wait_for()
    assert page.url == before


def test_two_rows_are_compared_by_inputs_and_by_edges(at: Any, own: Server) -> None:
    kept = [-0.4, 0.5]
    page = at(f"ui/hello/explain#row={kept[0]},{kept[1]}")
    page.locator(".waterfall").wait_for()
    panel = page.locator(".panel").filter(has=page.get_by_role("heading", name="Comparison of rows", exact=True))
    assert panel.is_hidden()
    page.get_by_role("button", name="Keep row to compare").click()
    panel.get_by_text("No input explains a difference.").wait_for()
    for name, value in zip(("length", "width"), ROW, strict=True):
        page.get_by_role("textbox", name=name, exact=True).fill(str(value))
        page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash === '#row=0.3,-0.2&against=-0.4,0.5'")
    page = at(page.url.split("/", 3)[3])  # the link has both rows
    panel = page.locator(".rows")
    panel.locator(".waterfall").wait_for()
    truth = explained(own, ROW, reference=np.array([kept], np.float32), path_top_k=8)
    before = explained(own, kept)
    order = np.argsort(-np.abs(truth.contributions[0, :, 0]))
    cells = panel.get_by_role("region", name="Inputs of both rows").locator("tbody td.number").all_inner_texts()
    values = np.array([float(text.replace("\N{MINUS SIGN}", "-")) for text in cells]).reshape(2, 5)
    contributions = (result.contributions[0, :, 0] for result in (before, explained(own, ROW)))
    expected = [truth.contributions[0, :, 0], kept, ROW, *contributions]
    np.testing.assert_allclose(values, np.array(expected).T[order], rtol=1e-2)
    assert f"{truth.predictions[0, 0]:.4g} for this row, and {truth.base[0]:.4g} for the kept row" in panel.inner_text()
    edges = panel.get_by_role("region", name="Edges of the difference").locator("tbody tr")
    assert edges.count() == sum(np.count_nonzero(layer.values) for layer in truth.path)
    page.get_by_role("button", name="Stop comparing").click()
    page.wait_for_function("() => !location.hash.includes('against')")
    assert panel.is_hidden()


def test_a_row_beyond_the_grid_has_a_warning(at: Any) -> None:
    page = at("ui/hello/explain#row=30,0.1")
    page.locator(".cover.bad").filter(has_text="length = 30 is out of grid").wait_for()
    assert page.locator(".here.past").count() >= 1


def test_a_model_of_many_inputs_has_a_search_and_one_bar_for_the_rest(at: Any) -> None:
    row = ",".join(str(round(value, 3)) for value in np.random.default_rng(2).normal(0, 0.5, 64))
    page = at(f"ui/digits/explain#row={row}&output=3")
    page.locator(".waterfall .step.rest").wait_for()
    assert "54 other inputs" in page.locator(".waterfall .step.rest").text_content()
    assert page.locator(".input").count() == 30
    page.get_by_role("searchbox").fill("x63")
    assert page.locator(".input").count() == 1
    assert page.locator(".big").inner_text().startswith("y3 ")


def test_a_classifier_opens_on_the_predicted_class_with_its_probability(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    classes = ",".join(f"digit {at}" for at in range(10))
    models = exported(GOLDEN / "efficient-kan-digits" / "model.pt", "named", "--classes", classes, into=tmp_path)
    row = np.random.default_rng(2).normal(0, 0.5, 64).round(3)
    with serving(models, transport="asgi") as server:
        with Client(server.address) as client:
            logits = client.infer("named", row[None].astype(np.float32)).outputs["y"][0]
        best, share = int(logits.argmax()), 100 / float(np.exp(logits - logits.max()).sum())
        page = browse(server, f"ui/named/explain#row={','.join(map(str, row))}")
        page.locator(".waterfall").wait_for()
        assert page.locator(".big").inner_text().startswith(f"digit {best} ")
        words = page.locator(".probabilities").inner_text()
        assert words.startswith(f"Softmax of the outputs: digit {best} {share:.3g}%")
        page.get_by_label("Output").select_option("0")
        page.wait_for_function("() => location.hash.includes('output=0')")
        page.context.close()


def test_a_row_that_equals_the_reference_leaves_no_box_that_waits(at: Any) -> None:
    page = at("ui/hello/explain#row=0,0&reference=zeros")
    page.locator(".story").filter(has_text="This row equals the reference").wait_for()
    assert [box for box in page.locator("main .bone").all() if box.is_visible()] == []


def test_drift_is_followed_while_the_traffic_shifts_and_rows_are_picked(at: Any, own: Server) -> None:
    random = np.random.default_rng(5)

    def asked(shift: float) -> None:
        for _ in range(4):
            own.infer(random.normal([shift, 0], 0.5, (150, 2)).astype(np.float32), "hello")

    asked(0.0)
    page = at("ui/hello/drift")
    page.locator(".verdict.good").filter(has_text="No.").wait_for()
    page.get_by_text("compared with 400 rows of reference.npy").wait_for()
    asked(1.5)
    page.locator(".verdict.bad").filter(has_text="Yes. 1 of 2 inputs has drifted: length").wait_for()
    assert page.locator("tr.chosen").inner_text().startswith("length")
    assert page.locator(".node-view .now").count() > 0
    assert page.locator(".node-view path.before").count() == 1
    later = at("")
    later.route("**/statistics/history", an_hour_long)
    later.goto("ui/hello/drift")
    until(lambda: points(later.locator(".ratio-view .chart path.line.one")) >= 60)
    assert points(later.locator("tr[data-key='0/0'] .spark path")) >= 60
    page.get_by_role("button", name="width", exact=True).click()
    page.get_by_role("heading", name="Distribution of width").wait_for()
    page.get_by_text("Prometheus queries").click()
    expression = page.locator("code.query").first.inner_text()
    assert expression == 'max by (layer) (kanserve_drift_psi_ratio{model="hello", version="1"})'
    assert "kanserve_drift_psi_ratio" in own.metrics()
    with page.expect_download() as saved:
        page.locator(".nodes").get_by_role("button", name="Save as CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith("node,where,psi_ratio,psi")
    assert lines[1].startswith("length,inputs,")

    page.goto("ui/hello/explain")
    page.get_by_text("Choose a recent request").click()
    page.locator(".sampled li button").first.wait_for()
    assert page.locator(".sampled li").count() == 20
    page.locator(".sampled li button").nth(3).click()
    page.wait_for_function("() => location.hash.startsWith('#row=')")


def an_hour_long(route: Any) -> None:
    """The last entry of the history that the server has, once for each minute of an hour."""
    reply = route.fetch()
    history = reply.json()
    assert len(history["times"]) >= 1
    assert [(layer["layer"], np.shape(layer["ratio"])[1:]) for layer in history["layers"]] == [
        (0, (2,)),
        (1, (1,)),
        (-1, (1,)),
    ]
    history["times"] = [history["times"][-1] - 60 * back for back in range(60, 0, -1)]
    for layer in history["layers"]:
        layer["ratio"], layer["out_of_range"] = layer["ratio"][-1:] * 60, layer["out_of_range"][-1:] * 60
    route.fulfill(response=reply, json=history)


def points(path: Any) -> int:
    """The number of points of a line, 0 before it is drawn."""
    return len(re.findall("[ML]", path.get_attribute("d"))) if path.count() else 0


def test_without_a_reference_drift_says_so(at: Any) -> None:
    page = at("ui/digits/drift")
    page.locator(".verdict").filter(has_text="no baseline").wait_for()
    assert "--baseline" in page.locator(".verdict").inner_text()
    assert page.locator(".chart").count() == 0, "no chart without anything in it"


def test_operations_show_traffic_errors_and_history(at: Any, own: Server) -> None:
    page = at("ui/ops")
    page.get_by_role("heading", name="Versions", exact=True).wait_for()
    page.locator(".ops-rates svg.chart").wait_for()
    for _ in range(5):
        own.infer(np.zeros((3, 2), np.float32), "hello")
    with pytest.raises(grpc.RpcError):
        own.infer(np.zeros((3, 7), np.float32), "hello")
    page.get_by_role("heading", name="Request rate").wait_for()
    page.locator(".ops-errors td").filter(has_text="INVALID_ARGUMENT").first.wait_for()
    assert page.locator(".ops-history tr").filter(has_text="loaded").count() >= 2
    page.locator("main").get_by_role("combobox", name="Version").select_option(label="hello 1")
    page.locator(".ops-batches svg .bar:not([height='0'])").first.wait_for()
    page.locator("main").get_by_role("combobox", name="Version").select_option(label="digits 1")
    page.locator(".ops-times svg.chart text").filter(has_text="No data").wait_for()
    page.locator(".ops-batches .empty").filter(has_text="No executions yet").wait_for()
    assert page.locator(".ops-versions tbody tr").count() == 2


def first_reading(browse: Callable[..., Any], server: Server) -> Any:
    """The operations page of a server. The page receives one response, and no second one."""
    page = browse(server)
    requests: list[Any] = []

    def once(route: Any) -> None:
        requests.append(route)
        if len(requests) == 1:
            route.continue_()

    page.route("**/v1/kan/operations", once)
    page.goto("ui/ops")
    page.get_by_text("Averages since the server started").wait_for()
    return page


def test_operations_show_charts_after_one_reading(browse: Callable[..., Any], repository: Path) -> None:
    with serving(repository, transport="asgi") as server:
        page = first_reading(browse, server)
        page.locator(".empty").filter(has_text="No requests yet").filter(has_text="kanserve infer").wait_for()
        assert page.locator(".ops-rates svg.chart").count() == 1
        page.context.close()
    with serving(repository, transport="asgi") as server:
        for _ in range(4):
            server.infer(np.zeros((3, 2), np.float32), "hello")
        page = first_reading(browse, server)
        assert page.locator(".board svg.chart").count() == 6
        for name in ("rates", "rows", "times"):
            assert float(re.split(r"[/\s]", page.locator(f".ops-{name} .legend strong").first.inner_text())[0]) > 0
        page.context.close()


def test_a_card_says_how_the_export_was_proved_and_saves_the_report(at: Any) -> None:
    page = at("ui/hello/card")
    page.get_by_role("heading", name="Test regions").wait_for()
    assert "sin(" in page.locator("code.query").first.inner_text()
    page.wait_for_function("() => [...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as HTML").click()
    text = Path(saved.value.path()).read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "Test regions" in text
    with page.expect_download() as picture:
        page.get_by_role("button", name="Save as PNG").first.click()
    assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_card_shows_the_certificate(at: Any, repository: Path) -> None:
    stored = manifest.load(repository / "hello" / "1").certificate
    page = at("ui/hello/card")
    ranges = page.get_by_role("region", name="Certified ranges")
    ranges.wait_for()
    bounds = stored.output_low, stored.found_low, stored.found_high, stored.output_high, stored.slack
    assert ranges.locator("td").all_inner_texts() == ["y0", *(f"{values[0]:.4g}" for values in bounds)]
    cells = page.get_by_role("region", name="Certified effects").locator("tbody tr").all()
    assert [row.locator("td").all_inner_texts() for row in cells] == [
        [
            name,
            f"{stored.low[at]:.4g}",
            f"{stored.high[at]:.4g}",
            "y0",
            f"{stored.lipschitz[at][0]:.4g}",
            stored.direction(at, 0),
        ]
        for at, name in enumerate(("length", "width"))
    ]
    assert page.get_by_text("inputs are float32 values in the box").is_visible()


def test_another_version_under_an_open_page_is_told(at: Any, models: Path) -> None:
    page, drift = at("ui/hello/explain#row=0.3,0.1"), at("ui/hello/drift")
    page.locator(".waterfall").wait_for()
    drift.locator(".verdict").filter(has_not_text="Comparing").wait_for()
    document(kanserve("copy", "hello", 1, 2, "--repository", models, "--json"))
    drift.locator("#banner").filter(has_text="the default version is 2").wait_for()
    page.get_by_role("slider", name="length, slider").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#banner").filter(has_text="Version 2 of hello is the default version now").wait_for()
    page.get_by_role("button", name="Show current state").click()
    page.locator(".waterfall").wait_for()
    assert page.locator("#banner").is_hidden()


def test_roles_are_asked_for_and_a_server_that_goes_is_told(
    browse: Callable[..., Any], repository: Path, tmp_path: Path, seen: Seen
) -> None:
    tokens = credentials.write_tokens(tmp_path / "tokens.toml")
    seen.expected += ["401", "403", "ERR_"]  # what the browser says of responses that are refused, or do not come
    with serving(repository, transport="asgi", tokens=str(tmp_path / "tokens.toml")) as server:
        page = browse(server, "ui/ops")
        page.get_by_role("textbox", name="Token").fill(tokens["read"])
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Versions", exact=True).wait_for()  # the role read is enough
        page.evaluate("token => sessionStorage.setItem('kanserve-token', token)", tokens["interpret"])
        page.goto("ui/hello/explain#row=0.1,0.1")
        page.reload()
        page.locator(".waterfall").wait_for()
        page.get_by_text("Choose a recent request").click()
        page.locator(".sampled").filter(has_text="--sample-rows").wait_for()
        drift = watched(page.context, f"http://{server.http}/", seen)
        drift.goto("ui/hello/drift")
        drift.evaluate("token => sessionStorage.setItem('kanserve-token', token)", tokens["interpret"])
        drift.reload()
        drift.locator(".verdict").filter(has_text="no live traffic yet").wait_for()
        shown = page.locator(".big").inner_text()
        server.process.kill()
        drift.locator(".alarm").filter(has_text="tries again").wait_for()
        page.get_by_role("slider", name="length, slider").focus()
        page.keyboard.press("ArrowRight")
        page.locator(".alarm").filter(has_text="The view shows the previous prediction").wait_for()
        assert page.locator(".big").inner_text() == shown
        page.context.close()
    until(lambda: server.process.poll() is not None)
