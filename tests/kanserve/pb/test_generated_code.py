"""The committed protocol code matches `proto/` and stays out of protobuf's default pool."""

from pathlib import Path

import pytest

from kanserve.pb import __main__ as generator


def test_sources_and_results_are_those_recorded() -> None:
    assert generator.stale() == []


def test_a_changed_source_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in generator.FILES:
        (tmp_path / name).write_bytes((generator.PROTO / name).read_bytes())
    with (tmp_path / "kan.proto").open("a") as file:
        file.write("// one more line\n")
    monkeypatch.setattr(generator, "PROTO", tmp_path)
    assert generator.stale() == ["proto/kan.proto changed since service/kanserve/pb was generated: run `make proto`"]


@pytest.mark.skipif(not generator.have_protoc(), reason="grpcio-tools is not installed; `make proto` has it")
def test_a_fresh_generation_gives_the_same() -> None:
    assert generator.differences() == []
