"""Export of a whole hostile corpus in this process, with a report of errors, time and memory.

    python tests/support/hostile_runner.py FOLDER

`hostile_files.write` creates FOLDER. The program prints one JSON document: the error and processor time per
entry, the events of Python's audit hooks, and the peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from kanexport.errors import ExportError
from kanexport.pipeline import Request, export

# Running something, loading something, writing something: none is needed to refuse a file.
WATCHED = ("exec", "compile", "import", "marshal.", "pickle.", "ctypes.", "socket.", "subprocess.", "os.", "shutil.")
HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk"}


def main(folder: Path) -> None:
    entries = json.loads((folder / "list.json").read_bytes())
    seen: list[str] = []
    watching = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open" and isinstance(args[2], int) and args[2] & 0o3:  # O_WRONLY, O_RDWR
            seen.append(f"open {args[0]!r}")
        elif event.startswith(WATCHED) and event not in HARMLESS:
            seen.append(f"{event} {str(args)[:100]}")

    sys.addaudithook(hook)
    results = []
    for entry in entries:
        for _ in range(2):  # what is loaded late is loaded once
            seen, watching, started = [], True, time.process_time()
            error = _attempt(folder, entry)
            watching, spent = False, time.process_time() - started
            if not seen:
                break
        results.append({"name": entry["name"], "error": error, "seconds": spent, "seen": seen})
    # Not ru_maxrss, which a child takes over from the process that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0])
    print(json.dumps({"peak_kib": peak, "results": results}))


def _attempt(folder: Path, entry: dict[str, Any]) -> dict[str, str] | None:
    steps = Path(entry["steps"]) if entry["steps"] else None
    options = tuple(entry["options"])
    request = Request(
        path=Path(entry["path"]),
        repository=folder / "models",
        name="m",
        options=options,
        architecture=steps,
        force=True,
    )
    try:
        export(request)
    except ExportError as error:
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    except BaseException as error:  # what must not happen is told like the rest
        return {"kind": f"UNTYPED {type(error).__name__}", "message": str(error), "hint": ""}
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
