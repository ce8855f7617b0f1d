"""Files for contributors and releases: changelog, templates, hooks, version policy, and the programs of tools/."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from kanexport.shared.cli.console import Exit
from kanserve.server import app, watchdog
from tools import check_commits, check_files, release

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PYPROJECT["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
VERSIONING = (ROOT / "docs" / "reference" / "versioning.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
ENTRY_LINES = 60
SOURCES = {".py", ".md", ".toml", ".yml", ".yaml", ".txt"}


def entries() -> dict[str, str]:
    """The text of each version, by its name, without the link definitions at the end."""
    body = re.split(r"^\[Unreleased\]: ", CHANGELOG, maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"^## \[(.+?)\].*$", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_changelog_has_the_version_of_the_project() -> None:
    names = list(entries())
    assert names[:2] == ["Unreleased", VERSION]
    dates = re.findall(r"^## \[\d.+?\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
    assert len(dates) == len(names) - 1
    assert dates == sorted(dates, reverse=True)
    for name in names:
        assert re.search(rf"^\[{re.escape(name)}\]: https://\S+$", CHANGELOG, re.MULTILINE), f"no link for {name}"


@pytest.mark.parametrize("name", list(entries()))
def test_an_entry_has_one_line_for_each_change(name: str) -> None:
    text = entries()[name].strip()
    assert len(text.splitlines()) + 2 <= ENTRY_LINES or name == "Unreleased"
    sections = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    assert not sections[0].strip()
    assert set(sections[1::2]) <= set(release.SECTIONS)
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        lines = [line for line in body.splitlines() if line]
        assert lines, title
        if title != "Renamed names":
            assert all(line.startswith("* ") and line.endswith(".") and len(line) <= 120 for line in lines), title
        breaking = [line.startswith("* **Breaking:**") for line in lines]
        assert breaking == sorted(breaking, reverse=True), f"{title}: breaking changes come first"


def test_issue_forms_have_the_fields_that_github_reads() -> None:
    assert {path.stem for path in FORMS} == {"bug_report", "config", "feature_request", "unsupported_checkpoint"}
    for path in FORMS:
        form = yaml.safe_load(path.read_text())
        if path.stem == "config":
            assert {"name", "url", "about"} == set(form["contact_links"][0])
            continue
        assert {"name", "description", "title", "labels", "body"} == set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
        assert any(field.get("validations", {}).get("required") for field in fields)


def test_workflows_run_the_commands_of_developers() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {target for command in commands for target in re.findall(r"make ([a-z-]+)", command)} == {"check", "test"}
    assert any(command.endswith("bash .ci/run") for command in commands)
    assert all((ROOT / path).is_file() for command in commands for path in re.findall(r"tools/\w+\.py", command))


def test_the_pull_request_template_names_programs_and_pages_that_exist() -> None:
    text = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    assert text.count("* [ ] ") >= 5
    assert {word for word in re.findall(r"`make ([a-z-]+)", text)} <= TARGETS
    for path in re.findall(r"(?<![\w/])(?:[\w-]+/)*[\w-]+\.(?:md|py)\b", text):
        assert (ROOT / path).is_file(), path


def test_every_test_and_tool_that_a_file_names_exists() -> None:
    """Also in code that a test writes, and in modules that such code imports."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = set()
    for name in listed:
        path = ROOT / name
        if path.suffix not in SOURCES or not path.is_file():
            continue
        text = path.read_text()
        missing |= {(name, other) for other in re.findall(r"(?<![\w/.-])(?:tests|tools)/[\w/]+\.py", text)}
        missing |= {
            (name, f"{folder.replace('.', '/')}/{module}")
            for folder, module in re.findall(r"from (tests(?:\.\w+)*|tools(?:\.\w+)*) import (\w+)", text)
            if not (ROOT / f"{folder.replace('.', '/')}.py").is_file()
        }
    there = {other for _, other in missing if (ROOT / other).exists() or (ROOT / f"{other}.py").is_file()}
    assert {pair for pair in missing if pair[1] not in there} == set()


def test_hooks_run_programs_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {"ruff-format", "ruff-check", "file-form", "commit-subject", "make-check"} == {hook["id"] for hook in hooks}
    for hook in hooks:
        program, *arguments = shlex.split(hook["entry"])
        assert hook["language"] == "system"
        if program == "make":
            assert set(arguments) <= TARGETS
            continue
        assert (Path(sys.executable).parent / Path(program).name).exists(), hook["entry"]
        assert Path(program).parent == Path(".venv/bin")
        for path in (word for word in arguments if word.endswith(".py")):
            assert (ROOT / path).is_file()


def test_the_version_policy_has_the_facts_of_the_code() -> None:
    assert len(VERSIONING.splitlines()) <= 120
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", VERSIONING, re.MULTILINE)}
    assert codes == {*map(int, Exit), watchdog.EXIT_STUCK, app.EXIT_TERMINATED}
    lowest, highest = re.findall(r"3\.(\d+)", PYPROJECT["project"]["requires-python"])
    (row,) = re.findall(r"^\| Python \| (.+?) \(", VERSIONING, re.MULTILINE)
    assert row == ", ".join(f"3.{minor}" for minor in range(int(lowest), int(highest)))
    needs = [
        need for extra in ("export", "serve", "torch") for need in PYPROJECT["project"]["optional-dependencies"][extra]
    ]
    bounds = dict(need.split(">=") for need in needs if ">=" in need)
    for library, bound in re.findall(
        r"^\| (onnxruntime|onnx|torch)(?: \(.+?\))? \| ([\d.]+) or newer", VERSIONING, re.M
    ):
        assert bounds.pop(library) == bound
    assert not {"onnxruntime", "onnx", "torch"} & set(bounds)


def test_the_security_page_supports_the_minor_version_of_the_project() -> None:
    minor = VERSION.rpartition(".")[0]
    page = (ROOT / "SECURITY.md").read_text()
    assert f"| the newest minor release, now {minor} | yes |" in page
    assert f"{PYPROJECT['project']['urls']['Repository']}/security/advisories/new" in page


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        ("grpc_api, rest: translate to plain types", ""),
        ("docs/index.md: embed the table of errors", ""),
        ("tests: process more rows" + 48 * "x", ""),
        ("loader: reject a version without a manifest" + 30 * "x", "has 73 characters, expected at most 72"),
        ("Reject a version without a manifest", 'expected "scope: imperative"'),
        ("loader: Reject a version", 'expected "scope: imperative"'),
        ("loader:", 'expected "scope: imperative"'),
        ("loader: rejected a version", 'found "rejected"'),
        ("loader: rejecting a version", 'found "rejecting"'),
        ("loader: rejects a version", 'found "rejects"'),
        ("loader: reject a version; count it", "has a semicolon"),
        ("loader: reject a version.", "ends with a period"),
        ("fixup! loader: reject a version", "is not finished"),
        ("wip", "is not finished"),
    ],
)
def test_a_bad_subject_is_reported_with_its_fault(subject: str, fault: str) -> None:
    problems = list(check_commits.problems(subject))
    assert any(fault in problem for problem in problems) if fault else not problems


def git(clone: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *settings, *arguments], cwd=clone, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one commit of the files that a release checks, without changes that are not released."""
    for name in (
        *("pyproject.toml", "kernel/pyproject.toml", "kernel/kanserve_kernel/__init__.py", "CHANGELOG.md"),
        f"{release.CHART}/Chart.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    released = re.sub(r"(## \[Unreleased\]\n).*?(?=\n## \[)", r"\1", CHANGELOG, count=1, flags=re.DOTALL)
    (tmp_path / "CHANGELOG.md").write_text(released)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-verify", "--message", "release: add the files")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_commits_of_a_range_and_a_message_are_checked(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    assert check_commits.main(["HEAD"]) == 0
    git(clone, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", "Added a thing")
    assert check_commits.main(["HEAD~1..HEAD"]) == 1
    assert "'Added a thing': expected \"scope: imperative\"" in capsys.readouterr().err
    assert check_commits.main(["absent..HEAD"]) == 2
    assert "absent..HEAD" in capsys.readouterr().err
    (clone / "message").write_text("\n# a comment\nloader: reject a version\n\nThe reason.\n")
    assert check_commits.main(["--message", "message"]) == 0


def test_a_release_accepts_a_clean_clone(clone: Path) -> None:
    assert release.check(clone) == VERSION
    git(clone, "tag", f"v{VERSION}")
    assert release.check(clone) == VERSION


@pytest.mark.parametrize(
    ("path", "old", "new", "fault"),
    [
        (
            "kernel/pyproject.toml",
            f'version = "{VERSION}"',
            'version = "9.0.0"',
            "kernel/pyproject.toml: version is '9.0.0'",
        ),
        ("kernel/kanserve_kernel/__init__.py", f'"{VERSION}"', '"9.0.0"', "VERSION is '9.0.0'"),
        (f"{release.CHART}/Chart.yaml", f"\nversion: {VERSION}", "\nversion: 9.0.0", "Chart.yaml: version is '9.0.0'"),
        ("pyproject.toml", "kanserve-kernel>=", "kanserve-kernel==", "extra export is 'kanserve-kernel=="),
        ("pyproject.toml", f'version = "{VERSION}"', 'version = "next"', "expected MAJOR.MINOR.PATCH"),
        ("CHANGELOG.md", f"## [{VERSION}]", "## [9.0.0]", "the first headings are ['Unreleased', '9.0.0']"),
        ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n* More.\n", '"Unreleased" has lines'),
        ("CHANGELOG.md", f"## [{VERSION}] - 2", f"## [{VERSION}] - 9", "has the date '9"),
    ],
)
def test_a_release_reports_files_that_disagree(clone: Path, path: str, old: str, new: str, fault: str) -> None:
    edit(clone / path, old, new)
    with pytest.raises(release.ReleaseError, match=re.escape(fault)) as caught:
        release.check(clone)
    assert caught.value.advice


def test_a_release_reports_a_changed_file_and_a_tag_of_another_commit(clone: Path) -> None:
    (clone / "notes").write_text("")
    with pytest.raises(release.ReleaseError, match="1 changed or untracked files: notes"):
        release.check(clone)
    git(clone, "tag", f"v{VERSION}")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--no-verify", "--message", "notes: add a file")
    with pytest.raises(release.ReleaseError, match=f"tag v{VERSION} names commit"):
        release.check(clone)
    git(clone, "tag", "--delete", f"v{VERSION}")
    git(clone, "tag", "v9.0.0")
    with pytest.raises(release.ReleaseError, match=r"HEAD has the tag v9\.0\.0"):
        release.check(clone)


def test_the_files_of_a_release_name_their_commit(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive of a commit has it in the code; the provenance has it with the hash of each file. A key signs it."""
    for name in (".gitattributes", "service/kanserve/version.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes((ROOT / name).read_bytes())
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--no-verify", "--message", "release: add the version")
    made = release.Release(clone, VERSION, tmp_path / "work")
    head = release.git(clone, "rev-parse", "HEAD").strip()
    made.built.mkdir(parents=True)
    (made.built / "kanserve.whl").write_bytes(b"wheel")
    release.unpack(made)
    assert runpy.run_path(str(made.source / "service" / "kanserve" / "version.py"))["commit"]() == head
    assert runpy.run_path(str(ROOT / "service" / "kanserve" / "version.py"))["commit"]() == "unknown"
    release.keep(made)
    statement = json.loads((clone / "dist" / f"kanserve-{VERSION}-provenance.json").read_text())
    assert statement["subject"] == [
        {"name": "kanserve.whl", "digest": {"sha256": release.sha256(made.built / "kanserve.whl")}}
    ]
    (source,) = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": head}
    sums = subprocess.run(["sha256sum", "--check", release.SUMS], cwd=clone / "dist", capture_output=True, text=True)
    assert sums.stdout.count(": OK\n") == 2, sums.stdout + sums.stderr
    monkeypatch.setenv("MINISIGN_KEY", str(tmp_path / "secret"))
    if shutil.which("minisign") is None:
        with pytest.raises(release.ReleaseError, match="minisign is not installed"):
            release.keep(made)
        return
    with pytest.raises(release.ReleaseError, match="minisign exits with"):
        release.keep(made)
    keys = ["-p", str(tmp_path / "public"), "-s", str(tmp_path / "secret")]
    subprocess.run(["minisign", "-G", "-W", *keys], check=True, capture_output=True)
    assert release.keep(made).endswith("its signature")
    verify = ["minisign", "-V", *keys[:2], "-m", str(clone / "dist" / release.SUMS)]
    subprocess.run(verify, check=True, capture_output=True)


def test_a_failed_command_of_a_release_is_shown_with_its_output(tmp_path: Path) -> None:
    program = "import sys; print('line'); sys.exit(3)"
    with pytest.raises(release.ReleaseError, match=r"exits with 3, expected 0. Its output:\n    line$") as caught:
        release.run([sys.executable, "-c", program], tmp_path, "read it")
    assert caught.value.advice == "read it"


def test_every_file_has_the_form(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert check_files.main([]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"one\ntwo \n", "notes:2: trailing space"),
        (b"one\r\n", "notes:1: line end of Windows"),
        (b"one\n<<<<<<< HEAD\n", "notes:2: conflict marker"),
        (b"one", "the last line needs one line end"),
        (b"one\n\n", "the last line needs one line end"),
        (b"\0" * (check_files.LARGE_BYTES + 1), "bytes, expected at most"),
    ],
)
def test_a_file_of_another_form_is_reported(content: bytes, fault: str) -> None:
    (problem,) = check_files.problems("notes", content)
    assert fault in problem
    assert list(check_files.problems("tests/golden/case.json", content[:99])) == []
