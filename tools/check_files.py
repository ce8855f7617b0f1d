"""Check of text files: no trailing spaces, one line end at the end, no conflict markers, no large file.

    python tools/check_files.py [FILE...]

pre-commit's own hooks do the same, but pre-commit fetches them from another host, and CI checks files without it.
Without FILE, the program checks every file that git tracks. It exits with 1 if a file has another form.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LARGE_BYTES = 512 * 1024
# Tests compare golden files and generated code byte for byte. matplotlib writes the spaces of the SVG files.
EXEMPT = re.compile(r"(tests/golden|service/kanserve/pb)/|.*\.svg$")
FAULTS = {
    b" \n": "trailing space",
    b"\t\n": "trailing tab",
    b"\r\n": "line end of Windows",
    b"\n<<<<<<< ": "conflict marker",
}


def problems(path: str, content: bytes) -> Iterator[str]:
    """The faults of one file, each as one sentence that says what to do."""
    if len(content) > LARGE_BYTES:
        yield f"{path}: {len(content)} bytes, expected at most {LARGE_BYTES}. Keep large files out of the repository."
    if EXEMPT.match(path) or b"\0" in content:
        return
    for text, fault in FAULTS.items():
        if (at := content.find(text)) >= 0:
            line = content.count(b"\n", 0, at + 1) + 1
            yield f"{path}:{line}: {fault}. Remove it."
    if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
        yield f"{path}: the last line needs one line end, and no empty line follows it."


def main(paths: Sequence[str]) -> int:
    """The exit status: 1 if one of the files has a fault. Faults go to stderr."""
    if not paths:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
        paths = listed.rstrip("\0").split("\0")
    files = [Path(path) for path in paths]
    faults = [
        fault
        for path in files
        if path.is_file() and not path.is_symlink()
        for fault in problems(path.as_posix(), path.read_bytes())
    ]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
