"""Checked statements of the documents; test_docs_commands.py runs their commands."""

import ast
import io
import json
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

from kanserve.config.fields import Group
from kanserve.config.settings import Settings
from kanserve.config.settings import flags as config_flags
from kanserve.grpc_api.call_context import CODES
from tests.support.golden_cases import EDGE_TOLERANCE, OUTPUT_TOLERANCE, OWN
from tests.support.tiers import full

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CLIENTS, REFERENCE = ROOT / "docs" / "guides" / "clients", ROOT / "docs" / "reference"


def test_links_and_named_files_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert [link for page, link in links if not (page.parent / link).exists()] == []


DESIGN = (ROOT / "docs" / "contributing" / "architecture.md").read_text()
PACKAGES = (ROOT / "kanexport", ROOT / "service" / "kanserve")
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
# A path in backquotes may start at the root, in a package or in the static files of the web UI.
STARTS = (ROOT, *PACKAGES, PACKAGES[1] / "ui" / "static")
PATH = re.compile(r"`((?:\.?\w[\w.-]*/)+[\w.-]*)(?:::\w+)?`")
FILE = re.compile(r"`([\w.-]+\.(?:py|js|md|toml|proto|cpp))`")
# Caches and builds, which other commands leave in a checkout.
LEFT = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}


def exists(path: str) -> bool:
    """A module may lack its suffix, and a name that the module defines may follow."""
    named = [path, f"{path}.py", f"{path.rpartition('.')[0] or path}.py"]
    return any((start / name).exists() for start in STARTS for name in named)


def missing(text: str) -> list[str]:
    """Paths in backquotes that do not exist: Python files, and paths whose first folder exists and is not a cache."""
    firsts = {path: path.split("/")[0] for path in PATH.findall(text)}
    paths = {path for path, first in firsts.items() if path.endswith(".py") or (exists(first) and first not in LEFT)}
    return sorted(path for path in paths if not exists(path))


def comments(source: str) -> str:
    """The comments and docstrings of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return "\n".join(token.string for token in tokens if token.type in kinds and token.string.startswith(("#", '"""')))


def test_every_path_on_a_page_exists() -> None:
    wrong = {page.relative_to(ROOT).as_posix(): missing(page.read_text()) for page in PAGES}
    assert {page: paths for page, paths in wrong.items() if paths} == {}


@full("document")
def test_every_path_in_a_comment_exists() -> None:
    wrong = {str(file.relative_to(ROOT)): missing(comments(file.read_text())) for file in sources()}
    assert {file: paths for file, paths in wrong.items() if paths} == {}


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (file for file in package.rglob("*.py") if "pb" not in file.parts)


def test_the_design_page_is_short_and_names_every_folder() -> None:
    assert len(DESIGN.splitlines()) <= 150
    parents = {file.parent for package in PACKAGES for file in package.rglob("*") if file.is_file()}
    parents |= {folder for folder in ROOT.iterdir() if folder.is_dir() and not ignored(folder)}
    folders = {folder.relative_to(ROOT).as_posix() for folder in parents if folder.name != "__pycache__"}
    assert len(folders) > 50
    assert sorted(folder for folder in folders - {"service"} if f"`{folder}/`" not in DESIGN) == []


def ignored(folder: Path) -> bool:
    """The folders that git does not know: environments, caches, results."""
    return subprocess.run(["git", "ls-files", "--error-unmatch", folder], cwd=ROOT, capture_output=True).returncode != 0


def test_files_on_the_design_page_exist() -> None:
    assert sorted(name for name in set(FILE.findall(DESIGN)) if not exists(name)) == []


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"demo", "test"} <= named
    missing = [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    assert not missing


def test_every_option_of_a_reader_is_documented() -> None:
    document = (ROOT / "docs" / "reference" / "export-options.md").read_text()
    kinds = "optional|text|number|choice|must|integers?"
    found = set()
    for reader in (ROOT / "kanexport" / "readers").glob("*.py"):
        code = ast.unparse(ast.parse(reader.read_text()))  # without comments
        found |= set(re.findall(rf"options\.(?:{kinds})\(\s*'(\w+)'", code))
    assert len(found) > 30
    assert sorted(option for option in found if f"`{option}" not in document) == []


def test_every_setting_and_status_is_documented() -> None:
    settings, limits = (REFERENCE / "settings.md").read_text(), (REFERENCE / "limits.md").read_text()
    flags = config_flags()
    for name in Settings.model_fields:
        assert f"`{name}`" in settings, name
        if name in flags and flags[name].group in (Group.LIMITS, Group.CONNECTIONS):
            assert f"`{name}`" in limits, name
    statuses = (CLIENTS / "grpc.md").read_text()
    for code in CODES.values():
        assert f"| {code.name} |" in statuses, code


def test_the_table_of_families_is_whole_and_keeps_its_promise() -> None:
    """`make families` measures and writes it; what does not need measuring is checked here."""
    begin, end = "<!-- families: written by `make families` -->", "<!-- end of families -->"
    page = (ROOT / "docs" / "reference" / "supported-libraries.md").read_text()
    rows = [line.strip("|").split("|") for line in page.partition(begin)[2].partition(end)[0].splitlines() if line]
    table = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows[2:]}
    facts = [json.loads(path.read_text()) for path in OWN.glob("*/case.json")]
    assert set(table) == {case["family"] for case in facts}
    for family, (count, outputs, edges, missed, classes) in table.items():
        own = [case for case in facts if case["family"] == family]
        assert int(count) == len(own), family
        assert set(classes.split(", ")) == {case["edge_class"] for case in own}, family
        assert float(outputs) <= OUTPUT_TOLERANCE
        assert float(edges) <= EDGE_TOLERANCE
        assert float(missed) < 1e-5


VERIFIED_BY = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_row_of_the_security_model_names_the_tests_that_verify_it() -> None:
    page = (ROOT / "docs" / "explanation" / "security-model.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    promises = [row for row in rows if not row.startswith("| threat")]
    assert len(promises) > 45
    for row in promises:
        assert VERIFIED_BY.search(row.rpartition(" | ")[2]), f"no test verifies: {row}"
    for path, name in VERIFIED_BY.findall(page):
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).is_file(), f"{path}::{name}"


def test_the_security_pages_warn_of_the_insecure_container() -> None:
    for name in ("SECURITY.md", "docs/explanation/security-model.md", "docs/operations/hardening.md"):
        page = (ROOT / name).read_text()
        for words in ("KANSERVE_INSECURE=true", "guides/serve/docker.md"):
            assert words in page, name


def test_every_command_that_runs_the_container_is_safe() -> None:
    """It has TLS and tokens, or publishes its ports on loopback only."""
    commands = [
        (page, command.replace("\\\n", " "))
        for page in PAGES
        for command in re.findall(r"^ *((?:docker|podman) run (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
        if "/models" in command
    ]
    assert len(commands) >= 2
    for page, command in commands:
        protected = re.search("--tokens|KANSERVE_TOKENS", command) and re.search("--tls-key|KANSERVE_TLS_KEY", command)
        published = re.findall(r"(?:-p|--publish) (\S+)", command)
        local = published and all(port.startswith("127.0.0.1:") for port in published)
        assert bool(protected) != ("KANSERVE_INSECURE=true" in command and bool(local)), (page.name, command)
