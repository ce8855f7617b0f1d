"""Check of commit subjects: `scope: imperative`, one subject, at most 72 characters.

    python tools/check_commits.py RANGE             the commits of a range, such as main..HEAD; merges are left out
    python tools/check_commits.py --message FILE    the message in FILE, as git's commit-msg hook passes it

gitlint checks lengths and patterns of titles, and not whether a verb is an imperative, which most faults were.
The program exits with 1 if a subject has another form, and with 2 if git does not know the range.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LENGTH = 72  # characters
SUBJECT = re.compile(
    r"(?P<scope>[a-z0-9][a-z0-9._/-]*(?:, [a-z0-9][a-z0-9._/-]*)*): (?P<verb>[a-z]+)(?= |$)(?P<rest>.*)"
)
UNFINISHED = re.compile(r"(fixup|squash|amend)!|wip\b", re.IGNORECASE)
# Forms of a verb that are not its imperative, and imperatives that end alike.
INFLECTED = re.compile(r"\w+(?:ed|ing|[^s]s)")
IMPERATIVES = {"bring", "embed", "exceed", "feed", "focus", "need", "proceed", "seed", "shed", "speed"}


def problems(subject: str) -> Iterator[str]:
    """The faults of one subject, each as a phrase with what was expected."""
    if len(subject) > LENGTH:
        yield f"has {len(subject)} characters, expected at most {LENGTH}"
    if UNFINISHED.match(subject):
        yield "is not finished; squash it into the commit that it belongs to"
    if ";" in subject:
        yield "has a semicolon, expected one subject; split the commit"
    if subject.endswith("."):
        yield "ends with a period"
    match = SUBJECT.fullmatch(subject)
    if not match:
        yield 'expected "scope: imperative", such as "loader: reject a version without a manifest"'
    elif INFLECTED.fullmatch(match["verb"]) and match["verb"] not in IMPERATIVES:
        yield f'expected an imperative after the scope, such as "add", found "{match["verb"]}"'


def message_subject(text: str) -> str:
    """The first line of a commit message that is neither empty nor a comment."""
    lines = (line.strip() for line in text.splitlines() if not line.startswith("#"))
    return next((line for line in lines if line), "")


def subjects(commits: str) -> list[tuple[str, str]]:
    """Short ids and subjects of a range, merges left out. Raises ValueError if git rejects the range."""
    command = ["git", "log", "--no-merges", "--format=%h %s", "--end-of-options", commits, "--"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in done.stdout.splitlines()]


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 if a subject has a fault, 2 if there is nothing to check. Faults go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("range", nargs="?", metavar="RANGE", help="commits, such as main..HEAD")
    source.add_argument("--message", type=Path, metavar="FILE", help="file with one commit message")
    chosen = parser.parse_args(arguments)
    try:
        named = [("message", message_subject(chosen.message.read_text()))] if chosen.message else subjects(chosen.range)
    except (OSError, ValueError) as error:
        print(f"check_commits: {error}", file=sys.stderr)
        return 2
    faults = [f"{name} {subject!r}: {fault}" for name, subject in named for fault in problems(subject)]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
