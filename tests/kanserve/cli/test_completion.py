"""`kanserve completion`: the scripts, run in the real shells."""

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
        response = document(kanserve("completion", shell, "--json"))
        assert response["shell"] == shell
        (folder / ("_kanserve" if shell == "zsh" else shell)).write_text(response["script"])
    (folder / "rows.npy").write_bytes(b"")
    return folder


def run(shell: str, *options: str, folder: Path) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, *options], capture_output=True, text=True, timeout=60, cwd=folder, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complete_in_bash(scripts: Path, *cases: tuple[str, ...]) -> list[list[str]]:
    """Return bash's completions after the words of each case. The last word is incomplete. Bash applies its rules for a
    registered function and `-o default`."""
    code = "source ./bash; complete -p kanserve >/dev/null || exit 9\n"
    for words in cases:
        line = " ".join(words)
        quoted = " ".join(f'"{word}"' for word in words)
        code += f"""
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; COMP_POINT={len(line)}
_kanserve kanserve "{words[-1]}" "{words[-2]}"
echo "${{COMPREPLY[@]}}"
"""
    return [line.split() for line in run("bash", "--norc", "-u", "-c", code, folder=scripts).splitlines()]


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


def test_bash(scripts: Path) -> None:
    assert complete_in_bash(scripts, *(words for words, _ in CASES)) == [offered for _, offered in CASES]


def test_bash_knows_every_command_and_flag(scripts: Path) -> None:
    parsers = main.every_parser()
    commands, *flags = complete_in_bash(scripts, ("kanserve", ""), *(("kanserve", name, "--") for name in parsers))
    assert commands == [*main.COMMANDS, "--help", "--version"]
    assert dict(zip(parsers, flags, strict=True)) == {name: parser.flags() for name, parser in parsers.items()}


def test_fish(scripts: Path) -> None:
    for words, offered in CASES[:-1]:
        printed = run("fish", "-N", "-c", f"source ./fish; complete -C '{' '.join(words)}'", folder=scripts)
        result = [line.split("\t")[0] for line in printed.splitlines()]
        # fish also offers what has the letters in it, in this order
        assert sorted(word for word in result if word.startswith(words[-1])) == sorted(offered)


def test_zsh(scripts: Path) -> None:
    for words, offered in CASES[:-1]:
        code = f"""
fpath=({scripts} $fpath); autoload -Uz compinit; compinit -D -u
compadd() {{ shift; print -l -- "${{(@M)@:#${{words[CURRENT]}}*}}" }}
_files() {{ }}
words=({" ".join(f"'{word}'" for word in words)}); CURRENT={len(words)}
[[ $_comps[kanserve] == _kanserve ]] || exit 9
_kanserve
"""
        assert run("zsh", "-f", "-c", code, folder=scripts).split() == offered


def test_the_script_is_printed_alone(scripts: Path) -> None:
    done = program("completion", "bash")
    assert (done.returncode, done.stdout, done.stderr) == (0, (scripts / "bash").read_text(), "")
