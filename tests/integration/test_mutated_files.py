"""Mutated files of users: no reader of tables, rows or checkpoints ends in a signal or a traceback."""

from pathlib import Path

from tests.support import forked_process, mutated_files, toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.golden_cases import ROOT
from tests.support.tiers import spread


@spread("seed", range(5), 1, "rare")
def test_no_reader_of_a_mutated_file_ends_in_a_signal_or_a_traceback(seed: int, tmp_path: Path) -> None:
    toy_model.write(tmp_path).rename(tmp_path / "model")
    mutated_files.write(tmp_path, seed, 20)
    words = [*COMMAND[:2], mutated_files.__name__, str(tmp_path)]
    done = forked_process.run(words, input=b"", cwd=ROOT, env=CLEAN, timeout=240)
    outcomes = done.stdout.decode().splitlines()
    assert done.returncode == 0, (outcomes[-1:], done.stderr.decode()[-3000:])
    codes = {name: code for name, _, code in (line.rpartition(" | ") for line in outcomes)}
    assert {name: code for name, code in codes.items() if code not in "012"} == {}
    assert {name: code for name, code in codes.items() if name.startswith("000") and code != "0"} == {}
    assert len({name.split()[0] for name in codes}) == len(list(tmp_path.glob("[0-9]*-*.*"))) > 140
