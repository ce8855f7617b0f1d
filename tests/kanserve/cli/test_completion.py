"""`kanserve completion`: the scripts, run in the real shells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kanserve.cli import main
from tests.support.command_line import document, kanserve, program


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of every shell; named as zsh requires."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        done = program("completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        (folder / ("_kanserve" if shell == "zsh" else shell)).write_text(done.stdout)
    (folder / "rows.npy").write_bytes(b"")
    return folder


def complete_in_bash(scripts: Path, *words: str) -> list[str]:
    """Return bash's completions after `words`. The last word is incomplete. Bash applies its rules for a registered
    function and `-o default`."""
    line = " ".join(words)
    quoted = " ".join(f'"{word}"' for word in words)
    code = f"""
source {scripts}/bash
complete -p kanserve >/dev/null || exit 9
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; COMP_POINT={len(line)}
_kanserve kanserve "{words[-1]}" "{words[-2]}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-u", "-c", code], capture_output=True, text=True, timeout=60, cwd=scripts, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


CASES: list[tuple[tuple[str, ...], list[str]]] = [
    (("kanserve", "in"), ["infer"]),
    (("kanserve", "e"), ["export", "edit", "explain", "edges"]),
    (("kanserve", "--v"), ["--version"]),
    (("kanserve", "infer", "--o"), ["--output"]),
    (("kanserve", "export", "net.pt", "--dtype", "float"), ["float32", "float64"]),
    (("kanserve", "serve", "models", "--device", ""), ["cpu", "cuda"]),
    (("kanserve", "serve", "--no-re"), ["--no-reflection"]),
    (("kanserve", "edges", "net", "--lay"), ["--layer"]),
    (("kanserve", "completion", "z"), ["zsh"]),
    (("kanserve", "infer", "net", "--input", "r"), []),  # left to names of files
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(("words", "offered"), CASES, ids=lambda value: " ".join(value) if value else None)
def test_bash(scripts: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete_in_bash(scripts, *words) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_knows_every_command_and_flag(scripts: Path) -> None:
    assert complete_in_bash(scripts, "kanserve", "") == [*main.COMMANDS, "--help", "--version"]
    for name, parser in main.every_parser().items():
        assert complete_in_bash(scripts, "kanserve", name, "--") == parser.flags()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), CASES[:-1], ids=lambda value: " ".join(value) if value else None)
def test_fish(scripts: Path, words: tuple[str, ...], offered: list[str]) -> None:
    code = f"source {scripts}/fish; complete -C '{' '.join(words)}'"
    done = subprocess.run(["fish", "-N", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = [line.split("\t")[0] for line in done.stdout.splitlines()]
    # fish also offers what has the letters in it, in this order
    assert sorted(word for word in result if word.startswith(words[-1])) == sorted(offered)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("words", "offered"), CASES[:-1], ids=lambda value: " ".join(value) if value else None)
def test_zsh(scripts: Path, words: tuple[str, ...], offered: list[str]) -> None:
    """The function as zsh's completion system calls it, with what it would add printed."""
    code = f"""
fpath=({scripts} $fpath); autoload -Uz compinit; compinit -D -u
compadd() {{ shift; print -l -- "${{(@M)@:#${{words[CURRENT]}}*}}" }}
_files() {{ }}
words=({" ".join(f"'{word}'" for word in words)}); CURRENT={len(words)}
[[ $_comps[kanserve] == _kanserve ]] || exit 9
_kanserve
"""
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == offered


def test_the_script_is_a_document_too(scripts: Path) -> None:
    answer = document(kanserve("completion", "bash", "--json"))
    assert answer == {"shell": "bash", "script": (scripts / "bash").read_text()}
