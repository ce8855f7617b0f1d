"""README and documentation pages: every block of commands and every Python block runs. Pages that do not export one of
the models that are there share a server."""

import contextlib
import importlib.util
import itertools
import math
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import command_line, forked_process
from tests.support.command_line import EXPORTED, exported, wait_for
from tests.support.programs import free_ports
from tests.support.tiers import full

pytestmark = full("document")

ROOT = Path(__file__).parent.parent
DOCS, README = ROOT / "docs", ROOT / "README.md"
# Texts that differ between machines and runs, and units of measurements.
VARIES = r"[0-9a-f]{7,64}|20\d\d|\d{5}"
UNITS = {"s", "ms", "µs", "us", "rows", "requests", "MiB", "GiB", "KiB", "bytes", "B", "%", "M", "k"}
SECONDS = 120
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
DIGITS = GOLDEN / "efficient-kan-digits"
MODELS: dict[str, tuple[object, ...]] = {
    "hello": (GOLDEN / "pykan-hello-adapted" / "model", "hello"),
    "digits": (DIGITS / "model.pt", "digits", "--expected-outputs", DIGITS / "reference.npz"),
}
# Commands of the shell that set up a machine; the desk of this test has what they make.
SETUP = re.compile(r"^\s*(git|make|source|cd|pip|pre-commit|\.venv/bin/pip)\b")
# A status of HTTP that is an error ends a block.
CURL = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }'
MEASURES = re.compile(r"\s*kanserve (bench|plan)\b")
MEASURED: set[str] = set()  # such lines of the pages that ran: two pages may have the same
FREE = "KANSERVE_GRPC_PORT=0 KANSERVE_METRICS_PORT=0"
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Desk(NamedTuple):
    """Folder in which the pages run, its environment and the gRPC port of its server."""

    folder: Path
    environment: dict[str, str]
    port: int

    def run(self, command: list[str]) -> str:
        """Returns the output of a command. Raises AssertionError with the output of a command that fails."""
        done = forked_process.run(command, input=b"", timeout=SECONDS, cwd=self.folder, env=self.environment)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode() + done.stderr.decode()


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block, in order, without indentation."""
    return [(language, re.sub(rf"(?m)^{indent}", "", text)) for indent, language, text in FENCE.findall(page)]


def script(text: str) -> str:
    """A block of commands for bash. Commands that set up a machine are left out, and servers are only checked."""
    kept = []
    for line in text.replace("\\\n", " ").splitlines():
        if SETUP.match(line) or line.strip() in MEASURED:
            continue
        if MEASURES.match(line):
            MEASURED.add(line.strip())
        if re.match(r"\s*kanserve serve\b", line) and not re.search(r"--(check|show-config|help)\b", line):
            line = f"{shlex.join(shlex.split(line, comments=True))} --check"
        if re.match(r"\s*kanserve (serve|doctor)\b", line) and "--url" not in line:
            line = f"{FREE} {line.strip()}"  # the ports of the environment are those of a server that runs
        kept.append(line)
    return "\n".join(["set -e; exec 2>&1", CURL, *kept])


def tokens(text: str) -> list[str]:
    """Numbers, words and signs of a text, without spaces, rules and bars."""
    text = re.sub(r"[─━│┃╭╰╮╯█▉▊▋▌▍▎▏▁▂▃▄▅▆▇·]", " ", text)
    text = re.sub(r"\(\d+,\d+,\d+\)", "EDGE", text)  # the edge with the largest rounding error
    return re.findall(r"(?<![\w.])[+-]?\d+(?:(?:,\d{3})+(?!\d))?(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])|\w+|[^\w\s]", text)


def alike(word: str, expected: str, unit: str) -> bool:
    """Whether a token of an output is that of a page. Numbers may differ by 1e-4, or by 1e-4 of them. A measurement (a
    number before a unit of time, rate or size), a digest, a year and a port may have any value."""
    if word == expected or all(re.fullmatch(VARIES, text) for text in (word, expected)):
        return True
    try:
        number, known = (float(text.replace(",", "")) for text in (word, expected))
    except ValueError:
        return False
    return unit in UNITS or math.isclose(number, known, rel_tol=1e-4, abs_tol=1e-4)


def difference(printed: str, shown: str) -> str:
    """The first place where a shown text differs from the output; empty if there is none. "..." stands for any text."""
    have, begin = tokens(printed), 0
    for part in re.split(r"\.\.\.|…", shown):
        wanted = tokens(part)
        best, most = begin, -1
        for start in range(begin, len(have)):
            pairs = itertools.zip_longest(have[start : start + len(wanted)], wanted, [*wanted[1:], ""], fillvalue="")
            same = sum(1 for _ in itertools.takewhile(lambda pair: alike(*pair), pairs))
            if same > most:
                best, most = start, same
            if same == len(wanted):
                break
        if most < len(wanted):
            run = have[best + max(most - 5, 0) : best + most + 6]
            return f"page: {' '.join(wanted[max(most - 5, 0) : most + 6])}\nrun:  {' '.join(run)}"
        begin = best + len(wanted)
    return ""


@contextlib.contextmanager
def desk(own: set[str], folder: Path) -> Iterator[Desk]:
    """A folder with what a clone has, the exported models, and a server. `own`: models that the page exports; they are
    not there."""
    for name in ("tests", "examples", "benchmarks", "service", "proto", "Dockerfile"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "models").mkdir()
    for name in set(MODELS) - own:
        exported(*MODELS[name], into=folder / "models")
    ports = free_ports("KANSERVE_GRPC_PORT", "KANSERVE_METRICS_PORT")
    grpc = ports["KANSERVE_GRPC_PORT"]
    options = ["--repository-poll-seconds", "0.2", "--drain-delay-seconds", "0"]
    command = [sys.executable, "-m", "kanserve", "serve", "models", *options]
    address = f"127.0.0.1:{grpc}"
    with (folder / "server.log").open("wb") as log, command_line.on_path(address) as path:
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        environment |= {**{name: str(port) for name, port in ports.items()}, "PATH": path}
        server = forked_process.popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            for name in set(MODELS) - own:
                wait_for(name, address)
            yield Desk(folder, environment, grpc)
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=SECONDS) == 0


PAGES = [
    README,
    *(path for path in sorted(DOCS.rglob("*.md")) if re.search("^ *```(sh|python)$", path.read_text(), re.M)),
]
PAGES.remove(DOCS / "contributing" / "add-a-family.md")  # parts of files, which tests/test_contributing.py compares


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk that has all models."""
    with desk(set(), tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_its_blocks_run(page: Path, shared: Desk, tmp_path: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    if "curl " in text and not (shutil.which("curl") and importlib.util.find_spec("h2corn")):
        pytest.skip("curl or h2corn is not installed")
    run = [block for language, block in blocks(text) if language in ("sh", "python")]
    own = {model for block in run for model in EXPORTED.findall(block)} & set(MODELS)
    with desk(own, tmp_path) if own else contextlib.nullcontext(shared) as here:
        metrics, printed, wrong = here.environment["KANSERVE_METRICS_PORT"], "", []
        for language, block in blocks(text):
            if language == "text":
                if printed and (found := difference(printed, block)):
                    wrong.append(found)
                continue
            printed = ""
            if language not in ("sh", "python"):
                continue
            local = re.sub(r"(localhost|127\.0\.0\.1):8001\b", f"127.0.0.1:{here.port}", block)
            local = re.sub(r"(localhost|127\.0\.0\.1):8002\b", f"127.0.0.1:{metrics}", local)
            command = [sys.executable, "-c", local] if language == "python" else ["bash", "-c", script(local)]
            printed = here.run(command).replace(f":{here.port}", ":8001").replace(f":{metrics}", ":8002")
            for model in EXPORTED.findall(local):
                wait_for(model, f"127.0.0.1:{here.port}")
    assert not wrong, "\n".join(wrong)
