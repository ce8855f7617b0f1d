"""Input, output and class names: set at export, reported by the server, and used in every table and formula."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kanexport.shared.naming import Names
from kanserve import Client
from kanserve.pb import grpc_service_pb2 as oip
from tests.support import http_client
from tests.support.command_line import document, exported, kanserve
from tests.support.golden_cases import cases
from tests.support.server_process import INFERENCE, Server

WINE = next(case for case in cases() if case.name == "efficient-kan-wine-update-grid")
HELLO = next(case for case in cases() if case.name == "pykan-hello-symbolic")
FEATURES = [f"measured {at}" for at in range(12)] + ["colour, deep"]
CLASSES = ["barolo", "grignolino", "barbera"]


def write(path: Path, names: list[str], rows: np.ndarray) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows.tolist()])
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    header = write(folder / "header.csv", FEATURES, np.zeros((1, 13)))
    supplied = ["--features", header, "--units", "g/l" + ",g/l" * 12, "--classes", ",".join(CLASSES)]
    exported(WINE.path, "wine", *supplied, "--description", "Which of three wines.", into=folder / "models")
    named = ("--features", "Width, the height (m)", "--classes", "lambda")
    exported(HELLO.path, "hello", *named, into=folder / "models")
    return folder / "models"


server = http_client.served(models="models", http_port=0)


def test_columns_find_their_places(server: Server, tmp_path: Path) -> None:
    rows = WINE.reference()["x"][:4].astype(np.float32)
    order = np.random.default_rng(1).permutation(13)
    right = write(tmp_path / "right.csv", FEATURES, rows)
    moved = write(tmp_path / "moved.csv", [FEATURES[at] for at in order], rows[:, order])
    bare = write(tmp_path / "bare.csv", list(map(str, rows[0])), rows[1:])
    responses = [kanserve("infer", "wine", "--url", server.address, "--input", path) for path in (right, moved)]
    assert responses[0].stdout == responses[1].stdout
    assert responses[0].stdout.splitlines()[0].split(",") == CLASSES
    plain = kanserve("infer", "wine", "--url", server.address, "--input", bare)
    assert plain.stdout == responses[0].stdout
    edges = [
        document(kanserve("edges", "wine", "--url", server.address, "--input", path, "--json"))
        for path in (right, moved)
    ]
    assert edges[0] == edges[1]


def test_other_columns_are_refused(server: Server, tmp_path: Path) -> None:
    for names, says in (
        ([*FEATURES[:12], "color, deep"], "missing column 'colour, deep', found 'color, deep'"),
        ([*FEATURES, "more"], "unknown column 'more', which is not one of the"),
        (FEATURES[:12], "missing column 'colour, deep'"),
    ):
        path = write(tmp_path / "rows.csv", names, np.zeros((2, len(names))))
        for command in ("infer", "edges"):
            refuses(says, command, "wine", "--url", server.address, "--input", path)


def refuses(says: str, *words: object) -> None:
    done = kanserve(*words)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert done.stdout == ""


def test_a_header_of_another_length_moves_nothing(server: Server, tmp_path: Path) -> None:
    """R writes row names in this form. Without the check, each column would get the values of its neighbor."""
    for columns in (12, 14):
        path = write(tmp_path / "rows.csv", FEATURES, np.zeros((2, columns)))
        says = f"the header has 13 columns, but the rows have {columns}"
        refuses(says, "infer", "wine", "--url", server.address, "--input", path)


def test_every_table_has_them(server: Server, models: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", FEATURES, WINE.reference()["x"][:2].astype(np.float32))
    edges = kanserve("edges", "wine", "--url", server.address, "--input", path, "--show", "96").stdout
    for shown in (*FEATURES, *CLASSES):
        assert shown in edges
    for reported in (kanserve("models", "wine", "--url", server.address), kanserve("models", models, "wine")):
        assert "Which of three wines." in reported.stdout
        assert "features: measured 0 [g/l], measured 1 [g/l]" in reported.stdout
        assert "classes: barolo, grignolino, barbera" in reported.stdout
    result = document(kanserve("models", "wine", "--url", server.address, "--json"))["model"]["names"]
    assert result == document(kanserve("models", models, "wine", "--json"))["model"]["names"]
    assert (result["features"], result["classes"]) == (FEATURES, CLASSES)
    (strongest, *_) = document(
        kanserve("edges", "wine", "--url", server.address, "--input", path, "--layer", "1", "--json")
    )["edges"]
    assert strongest["destination_name"] == CLASSES[strongest["destination"]]


def test_clients_are_told(server: Server) -> None:
    """Stock clients in ModelMetadata, where MLServer has parameters: lists as JSON over gRPC, as lists over HTTP."""
    units, description = ["g/l"] * 13, "Which of three wines."
    with Client(server.address) as client:
        described, model = client.describe("wine"), client.model("wine")
    assert described.names == model.names
    assert model.names.features == tuple(FEATURES)
    assert (model.names.units, model.names.description) == (tuple(units), description)
    requested = oip.ModelMetadataRequest(name="wine").SerializeToString()
    response = oip.ModelMetadataResponse.FromString(server.call(f"{INFERENCE}ModelMetadata", requested))
    assert json.loads(response.parameters["kan.features"].string_param) == FEATURES
    assert json.loads(response.parameters["kan.classes"].string_param) == CLASSES
    reported = http_client.ask(server, "/v2/models/wine").json["parameters"]
    named = {"kan.features": FEATURES, "kan.units": units, "kan.classes": CLASSES}
    assert reported == {**named, "kan.description": description}


def test_edges_are_chosen_by_the_names_of_their_ends(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", FEATURES, WINE.reference()["x"][:2].astype(np.float32))

    def edges(*words: str) -> list[tuple[int, int, int]]:
        result = document(kanserve("edges", "wine", "--url", server.address, "--input", path, "--json", *words))
        return sorted((edge["layer"], edge["source"], edge["destination"]) for edge in result["edges"])

    width = len(edges("--source", FEATURES[12], "--show", "99"))
    assert edges("--source", FEATURES[12], "--show", "99") == [(0, 12, at) for at in range(width)]
    assert edges("--edge", f"0:{FEATURES[12]}:1") == [(0, 12, 1)]
    assert edges("--destination", "grignolino", "--show", "99") == [(1, at, 1) for at in range(width)]
    ways = edges("--path", FEATURES[12], "grignolino", "--show", "99")
    assert ways == [(0, 12, at) for at in range(width)] + [(1, at, 1) for at in range(width)]
    curve = document(kanserve("curves", "wine", "--url", server.address, "--json", "--source", FEATURES[3]))
    assert {(item["layer"], item["source"]) for item in curve["curves"]} == {(0, 3)}


UNKNOWN_ENDS = [
    (("--source", "colour"), "--source colour: unknown node, expected an index or a name"),
    (("--source", "measured  1"), "did you mean 'measured 1'?"),
    (("--source", FEATURES[0], "--destination", CLASSES[0]), "error[edge-between-layers]: no edge from"),
    (("--layer", "1", "--source", FEATURES[0]), "'measured 0' is a node of layer 0"),
    (("--path", "nothing", "0"), "help: names: measured 0, "),
    (("--path", "0", "barbara"), "did you mean 'barbera'?"),
    (("--path", "0", "0", "--source", "1"), "--path cannot be combined with --source or --destination"),
]


def test_names_of_ends_that_do_not_exist(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", FEATURES, np.zeros((2, 13)))
    for words, says in UNKNOWN_ENDS:
        refuses(says, "edges", "wine", "--url", server.address, "--input", path, *words)


def test_names_of_several_outputs() -> None:
    """Classes count over all outputs in order; without classes, names begin with the name of their output."""
    sizes = {"kind": 2, "size": 1}
    assert Names(classes=("a", "b", "c")).columns(sizes) == {"kind": ("a", "b"), "size": ("c",)}
    assert Names().columns(sizes) == {"kind": ("kind0", "kind1"), "size": ("size0",)}
    assert Names(classes=("a", "b")).columns({"logits": 3}) == {"logits": ("y0", "y1", "y2")}


def test_a_formula_is_of_the_features(server: Server) -> None:
    line = kanserve("formula", "hello", "--url", server.address).stdout
    assert "Width" in line
    assert "the_height_m" in line
    assert line.startswith("y0 = "), "lambda is a word of Python's"
    result = document(kanserve("formula", "hello", "--url", server.address, "--json"))
    assert result["inputs"] == ["Width", "the_height_m"]


def test_names_that_do_not_fit_are_refused_before_anything_is_proved(tmp_path: Path) -> None:
    export, models = ("export", "--repository", tmp_path / "models"), tmp_path / "models"
    for supplied, says in (
        (("--features", "a,b"), "found 2 features, expected 13"),
        (("--classes", "a,b,a"), "classes: 'a' occurs twice"),
        (("--features", tmp_path / "none.csv"), "cannot be read: No such file or directory"),
    ):
        refuses(says, *export, WINE.path, "--name", "wine", *supplied)
    assert not models.exists()
    says = "--features, --units, --classes or --description cannot be combined with --recursive"
    refuses(says, *export, tmp_path, "--recursive", "--features", "a")
