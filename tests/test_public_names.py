"""Public names: commands, flags, request fields, clients, errors and services. Each change needs a decision."""

import inspect
import json
from pathlib import Path

import pytest

from kanexport.shared import manifest
from kanexport.shared.cli.console import Exit
from tests.support.command_line import kanserve


def words(text: str) -> set[str]:
    return set(text.split())


CALLS = words(
    "certificates close coverage curves describe drift edges estimate explain health index infer model "
    "ready reset_statistics scores statistics watch_statistics within"
)
GOLDEN_MANIFEST = Path(__file__).parent / "golden" / "manifest" / "v1" / "pykan-mult-affine.json"


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
        **dict.fromkeys(("Refused", "NoAnswer", "ServerFailed"), "ClientError"),
        **dict.fromkeys(("InvalidInput", "NotFound", "NotAllowed", "TooLarge", "NotSupported"), "Refused"),
        **dict.fromkeys(("Unavailable", "RateLimited", "DeadlineExceeded"), "NoAnswer"),
        "Unreachable": "Unavailable",
    }
    assert kanserve.NotFound("no such model", code="NOT_FOUND").code == "NOT_FOUND"
    with pytest.raises(AttributeError, match="has no attribute 'Clinet'"):
        kanserve.Clinet  # noqa: B018 - the access is what is tried


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
