"""Public names: commands, flags, request fields, clients, errors and services. Each change needs a decision."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanexport.shared import manifest
from kanexport.shared.cli.console import Exit
from kanserve.observability.log_events import EVENTS
from kanserve.observability.metrics import DEFINITIONS
from tests.support.command_line import kanserve


def words(text: str) -> set[str]:
    return set(text.split())


CALLS = words(
    "certificates close coverage curves describe drift edges estimate explain health index infer model "
    "ready reset_statistics scores statistics watch_statistics within"
)
RENAMED = Path(__file__).parents[1] / "docs" / "reference" / "renamed-names.md"
GOLDEN_MANIFEST = Path(__file__).parent / "golden" / "manifest" / "v1" / "pykan-mult-affine.json"


def renamed(heading: str) -> Iterator[tuple[list[str], list[str]]]:
    """The old and the new names of each row of a table of docs/reference/renamed-names.md."""
    section = RENAMED.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    for old, new in re.findall(r"^\| (`.+) \| (`.+) \|$", section, re.MULTILINE):
        yield re.findall(r"`(.+?)`", old), re.findall(r"`(.+?)`", new)


def test_a_renamed_metric_has_its_new_name_only() -> None:
    names = {item.name.removeprefix("kanserve_") for item in DEFINITIONS} | {"worker_exits_total"}
    rows = list(renamed("Metrics and alerts"))
    assert len(rows) > 10
    for old, new in rows:
        assert names.isdisjoint(old)
        assert names.issuperset(new)


def test_a_renamed_log_event_has_its_new_name_only() -> None:
    for old, new in renamed("Log events"):
        assert EVENTS.keys().isdisjoint(old)
        assert EVENTS.keys() >= set(new)


def test_the_transport_for_modules() -> None:
    pytest.importorskip("torch")
    import kanexport

    names = list(inspect.signature(kanexport.export).parameters)
    assert names == [
        *("module", "example_inputs", "name", "repository", "version", "options", "functions", "dtype"),
        *("max_batch_size", "tolerance", "force", "expected_outputs", "features", "units", "classes", "description"),
        *("baseline", "explain", "out_of_range", "calibration", "coverage", "interval_method", "advance"),
    ]
    assert kanexport.__all__ == ["export", "record_outputs"]
    with pytest.raises(AttributeError, match="has no attribute 'import_'"):
        kanexport.import_  # noqa: B018 - the access is what is tried


def test_the_clients_and_their_errors() -> None:
    import kanserve

    for client in (kanserve.Client, kanserve.AsyncClient):
        assert list(inspect.signature(client).parameters) == [
            *("url", "timeout", "retries", "ca", "cert", "key", "server_name", "token", "token_in_clear")
        ]
        assert {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")} == CALLS
    errors = [getattr(kanserve, name) for name in kanserve.__all__ if not name.endswith("Client")]
    assert {error.__name__: error.__bases__[0].__name__ for error in errors} == {
        "ClientError": "Exception",
        **dict.fromkeys(("RequestRejected", "TransientError", "ServerFailed"), "ClientError"),
        **dict.fromkeys(("InvalidInput", "NotFound", "NotAllowed", "TooLarge", "NotSupported"), "RequestRejected"),
        **dict.fromkeys(("Unavailable", "RateLimited", "DeadlineExceeded"), "TransientError"),
        "Unreachable": "Unavailable",
    }
    assert kanserve.NotFound("no such model", code="NOT_FOUND").code == "NOT_FOUND"
    with pytest.raises(AttributeError, match="has no attribute 'Clinet'"):
        kanserve.Clinet  # noqa: B018 - the access is what is tried


def test_an_old_name_of_the_client_works_with_a_warning() -> None:
    import kanserve
    from kanserve.client import results

    for home, old, new in (
        (kanserve, "Refused", "RequestRejected"),
        (kanserve, "NoAnswer", "TransientError"),
        (results, "Answer", "InferenceResult"),
    ):
        with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}") as warned:
            assert getattr(home, old) is getattr(home, new)
        assert warned[0].filename == __file__


def test_the_error_document() -> None:
    assert set(json.loads(kanserve("infer", "--json").stdout)["error"]) == {
        "kind",
        "code",
        "message",
        "hint",
        "exit_code",
    }
    exits = "DONE=0 FAILED=1 WRONG=2 UNPROVED=3 PARTLY=4 HUNG=70 INTERRUPTED=130 TERMINATED=143"
    assert " ".join(f"{code.name}={int(code)}" for code in Exit) == exits


def test_a_published_manifest_is_read_and_written_the_same() -> None:
    """The file is the manifest of an export of the golden case pykan-mult-affine. After the first release, a new key, a
    renamed key or a removed key needs another format."""
    loaded = manifest.loads(GOLDEN_MANIFEST.read_bytes())
    assert GOLDEN_MANIFEST.parent.name == f"v{loaded.format}" == f"v{manifest.FORMAT}"
    assert loaded.claim == manifest.VERIFICATION_BASES[manifest.READING]  # never more than was done
    assert loaded.layers
    assert manifest.dumps(loaded) == GOLDEN_MANIFEST.read_bytes()


def test_a_manifest_of_an_unknown_format_says_how_to_export_again() -> None:
    for result in (0, manifest.FORMAT + 1, 8, "1", True, None):
        document = json.loads(GOLDEN_MANIFEST.read_bytes()) | {"format": result}
        with pytest.raises(manifest.ManifestError) as caught:
            manifest.loads(json.dumps(document).encode())
        assert f"manifest has format {result!r}, this program reads format {manifest.FORMAT}: " in str(caught.value)
        assert "`kanserve export CHECKPOINT --repository REPOSITORY --name NAME --force`" in str(caught.value)
