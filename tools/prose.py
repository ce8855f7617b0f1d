"""Linter of user-facing text: the words and sentence forms of docs/contributing/style-guide.md.

    python tools/prose.py [--count] [PATH...]

Without PATH, the program checks every file that git tracks. It reads documentation pages, the first lines of
docstrings, texts in the code of the packages, the web UI, comments of the proto files, alerts and dashboards. Code in
backquotes is not text. The program prints one line per violation and exits with 1 if there is any. `--count` prints a
table of counts.
"""

from __future__ import annotations

import ast
import collections
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "contributing" / "style-guide.md"
MOST_WORDS = 25
MOST_LINES = 250
# Sentence starts that hide the actor.
START = re.compile(r"^(?:What|Who|Whose|Whoever|Whatever|Of)\b")
# A page that a program writes names its writer.
GENERATED = re.compile(r"writes this file|<!-- generated")
# Files that quote words on purpose, records of measurements, and texts of others.
EXEMPT = re.compile(
    r"docs/contributing/style-guide\.md|docs/reference/renamed-names\.md"
    r"|service/kanserve/pb/|tests/golden/|LICENSE"
)
PACKAGES = ("kanexport/", "service/kanserve/")
SHORT = 3  # words: a shorter string in code is a key


class Violation(NamedTuple):
    """One place: file, line, rule or word, and the text around it."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text[:110]}"


class Word(NamedTuple):
    """One row of the table of words."""

    pattern: re.Pattern[str]
    instead: str
    allowed: re.Pattern[str] | None


class Text(NamedTuple):
    """A piece of text, the line where it begins, and whether it consists of whole sentences."""

    line: int
    text: str
    prose: bool = False


def words(guide: str) -> list[Word]:
    """The table of the style guide. Raises ValueError if it has no row."""
    rows = re.findall(r"^\| (`.+?) \| (.+?) \| (.*?) ?\|$", guide.partition("## Words")[2], re.MULTILINE)
    if not rows:
        raise ValueError(f"{GUIDE} has no table of words, expected one under the heading 'Words'")
    known = []
    for found, instead, allowed in rows:
        parts = [part.replace("\\|", "|") for part in re.findall(r"`([^`]+)`", found)]
        phrases = [re.escape(phrase.strip()) for phrase in allowed.split(",") if phrase.strip()]
        known.append(
            Word(
                re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?![\w-])", re.IGNORECASE),
                instead,
                re.compile("|".join(phrases), re.IGNORECASE) if phrases else None,
            )
        )
    return known


def sentences(text: str) -> Iterator[str]:
    """The sentences of a paragraph."""
    yield from (part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z`*\"(]|kanserve)|\n{2,}", text) if part.strip())


def markdown(source: str) -> Iterator[Text]:
    """The paragraphs, list items, headings and table cells of a page, without code, targets of links and comments."""
    source = re.sub(r"^```.*?^```[ \t]*$", _blank, source, flags=re.MULTILINE | re.DOTALL)
    source = re.sub(r"^ +```.*?^ +```[ \t]*$", _blank, source, flags=re.MULTILINE | re.DOTALL)
    source = re.sub(r"<!--.*?-->", _blank, source, flags=re.DOTALL)
    source = re.sub(r"`+[^`\n]*`+", "`x`", source)
    source = re.sub(r"\]\([^)]*\)", "]", source)
    paragraph: list[str] = []
    begin = 0
    for number, line in enumerate([*source.splitlines(), ""], 1):
        item = re.match(r"\s*(?:[*+-]|\d+\.)\s+|#+\s+|!!!|=== ", line)
        row = line.lstrip().startswith("|")
        if paragraph and (not line.strip() or item or row):
            yield Text(begin, " ".join(paragraph), prose=True)
            paragraph = []
        if row:
            yield from (Text(number, cell.strip()) for cell in line.strip().strip("|").split("|") if cell.strip(" -:"))
        elif line.strip():
            begin = begin if paragraph else number
            paragraph.append(line[item.end() :].strip() if item else line.strip())


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def python(source: str, *, strings: bool) -> Iterator[Text]:
    """First lines of docstrings; with `strings` also the string literals that are texts."""
    tree = ast.parse(source)
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docs.add(id(first.value))
                summary = first.value.value.strip().partition("\n\n")[0]
                yield Text(first.lineno, " ".join(_plain(summary).split()), prose=True)
    if not strings:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            docs.update(id(part) for part in node.values)
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "`x`" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            text = node.value
        else:
            continue
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= SHORT and " " in text:
            yield Text(node.lineno, _plain(text))


def _plain(text: str) -> str:
    return re.sub(r"`+[^`]*`+", "`x`", text)


def script(source: str) -> Iterator[Text]:
    """The string and template literals of JavaScript that are texts."""
    source = re.sub(r"/\*.*?\*/", _blank, source, flags=re.DOTALL)
    source = re.sub(r"(?m)^\s*//.*$|\s//\s.*$", "", source)
    for match in re.finditer(r"'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\"|`((?:[^`\\]|\\.)*)`", source):
        text = re.sub(r"\$\{[^}]*\}", "`x`", next(group for group in match.groups() if group is not None))
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= SHORT - 1 and " " in text:
            yield Text(source.count("\n", 0, match.start()) + 1, text)


def markup(source: str) -> Iterator[Text]:
    """The text between the tags of an HTML page."""
    for match in re.finditer(r">([^<>]+)<", source):
        yield Text(source.count("\n", 0, match.start()) + 1, " ".join(match[1].split()))


def remarks(source: str) -> Iterator[Text]:
    """The comments of a proto file, as paragraphs. Triton's own comments (`//@@`) stay as they are."""
    block: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        match = re.match(r"\s*//(?!@@)\s?(.*)", line)
        if match and match[1]:
            block.append(match[1])
            continue
        if block:
            yield Text(number - len(block), _plain(" ".join(block)), prose=True)
            block = []
        if not match and (trailing := re.search(r"\S\s+//\s?(.+)", line)):
            yield Text(number, _plain(trailing[1]), prose=True)


def alert_texts(source: str) -> Iterator[Text]:
    """The summaries and descriptions of alert rules."""
    for match in re.finditer(r"(?m)^\s*(?:summary|description): *(.+)$", source):
        yield Text(source.count("\n", 0, match.start()) + 1, re.sub(r"\{\{.*?\}\}", "`x`", match[1]))


def panels(source: str) -> Iterator[Text]:
    """The titles and descriptions of a dashboard."""

    def walk(value: object) -> Iterator[Text]:
        if isinstance(value, dict):
            for key, item in value.items():
                if key in ("title", "description") and isinstance(item, str):
                    yield Text(1, item)
                else:
                    yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    yield from walk(json.loads(source))


def texts(path: str, source: str) -> Iterator[Text]:
    """All user-facing text of one file, by the kind of the file."""
    if EXEMPT.search(path):
        return
    product = path.startswith(PACKAGES)
    if path.endswith(".md"):
        yield from markdown(source)
    elif path.endswith(".py"):
        yield from python(source, strings=product)
    elif path.endswith(".js") and product:
        yield from script(source)
    elif path.endswith(".html") and product:
        yield from markup(source)
    elif path.endswith(".proto"):
        yield from remarks(source)
    elif path.endswith("rules.yml"):
        yield from alert_texts(source)
    elif "grafana" in path and path.endswith(".json"):
        yield from panels(source)


def check(path: str, source: str, known: Sequence[Word]) -> Iterator[Violation]:
    """The violations of one file."""
    page = path.endswith(".md")
    generated = bool(GENERATED.search(source))
    if page and path.startswith("docs/") and not generated and source.count("\n") > MOST_LINES:
        yield Violation(path, 1, "long page", f"{source.count(chr(10))} lines, expected at most {MOST_LINES}")
    for line, text, prose in texts(path, source):
        for word in known:
            for match in word.pattern.finditer(text):
                if word.allowed and any(a.start() <= match.start() < a.end() for a in word.allowed.finditer(text)):
                    continue
                yield Violation(path, line, f"'{match[0].lower()}', write {word.instead}", _around(text, match))
        for sentence in sentences(text):
            if START.search(sentence) and not sentence.endswith("?"):
                yield Violation(path, line, "sentence begins with What, Who, Whose or Of", sentence)
            if page and prose and not generated and (count := len(sentence.split())) > MOST_WORDS:
                yield Violation(path, line, f"sentence of {count} words", sentence)


def _around(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - 40) : match.end() + 40].strip()


def tracked() -> list[str]:
    """The files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def violations(paths: Iterable[str]) -> Iterator[Violation]:
    """The violations of several files, by their paths below the root."""
    known = words(GUIDE.read_text())
    for path in paths:
        file = ROOT / path
        if file.suffix in (".md", ".py", ".js", ".html", ".proto", ".yml", ".json") and file.is_file():
            yield from check(path, file.read_text(), known)


def main(arguments: list[str]) -> int:
    """Print the violations."""
    count = "--count" in arguments
    named = [argument for argument in arguments if argument != "--count"]
    files = tracked()
    if named:
        files = [
            path for path in files if any(path == name or path.startswith(f"{name.rstrip('/')}/") for name in named)
        ]
    result = list(violations(files))
    if count:
        table = collections.Counter(violation.rule for violation in result)
        print("\n".join(f"{number:6} {rule}" for rule, number in table.most_common()))
        for path, number in collections.Counter(v.path for v in result).most_common(40):
            print(f"{number:6} {path}")
    else:
        print("\n".join(map(str, result)))
    print(f"{len(result)} violations in {len(files)} files", file=sys.stderr)
    return 1 if result else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
