"""Checks of a model repository: each version by the server's own rules, and remains of interrupted exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kanexport.contract import temp_dirs
from kanserve.cli import inventory
from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.cli.inventory import Entry
from kanserve.cli.options import InputError
from kanserve.config.settings import Settings
from kanserve.system import resources

ABOUT = "models"
LEFT = f"{temp_dirs.HIDDEN}*"  # of an export that was killed
AGAIN = "export it again (`kanserve export ... --force`), or move its folder away"


def check_repository(settings: Settings) -> Iterator[Finding]:
    """Findings about the repository: one for each version, and one for the memory of all."""
    repository = settings.repository
    try:
        entries = inventory.of_folder(repository, hard_links=settings.allow_hard_links)
    except InputError as error:
        yield problem(ABOUT, error.message, "let the server's user read the folder and its files")
        return
    served = [entry for entry in entries if _serves(entry, settings)]
    if not served:
        yield problem(
            ABOUT,
            f"{repository} has no version that can be served",
            f"`kanserve export CHECKPOINT --repository {repository} --name NAME` makes one",
        )
    for entry in entries:
        yield _judged(entry, settings)
    yield free_memory(sum(entry.size or 0 for entry in served), settings, resources.available())
    yield from _left_behind(repository)


def free_memory(size: int, settings: Settings, free: int | None) -> Finding:
    """Versions with files of so many bytes, and messages, against `free` bytes of memory (None: nobody tells)."""
    models, messages = resources.FACTOR * size * settings.workers, settings.max_inflight_bytes * settings.workers
    needed = f"models may take {_mib(models)}, messages {_mib(messages)}"
    if free is None:
        return ok("memory", f"{needed}; how much there is, nobody tells")
    if models + messages > free:
        text = f"{needed}, and {_mib(free)} are free"
        return warning(
            "memory", text, "give the server more, or serve fewer versions, workers or smaller max_inflight_bytes"
        )
    return ok("memory", f"{needed}; {_mib(free)} are free")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _serves(entry: Entry, settings: Settings) -> bool:
    return entry.state in inventory.USABLE or (entry.state == inventory.PLAIN and settings.plain_onnx)


def _judged(entry: Entry, settings: Settings) -> Finding:
    named = f"{entry.name} version {entry.version}"
    if entry.state == inventory.INVALID:
        return problem(ABOUT, f"{named} is refused: {entry.reason}", AGAIN)
    if entry.state == inventory.PLAIN and not settings.plain_onnx:
        return warning(ABOUT, f"{named} has no manifest and is passed over", "--plain-onnx serves it, unproved")
    if entry.state == inventory.IGNORED:
        return warning(ABOUT, f"{named} is passed over: {entry.reason}", "nothing, if that is on purpose")
    if (entry.size or 0) > settings.max_file_bytes:
        return warning(
            ABOUT,
            f"the files of {named} have {entry.size} bytes together, one may have {settings.max_file_bytes}",
            "raise max_file_bytes if it is one file",
        )
    if entry.unused:
        return warning(
            ABOUT, f"{named}: {', '.join(entry.unused)} in config.pbtxt is without effect", "take it out of the file"
        )
    return ok(ABOUT, f"{named}: files and manifest are as the server wants them")


def _left_behind(repository: Path) -> Iterator[Finding]:
    """Remains that the next export of the same model would remove."""
    try:
        left = sorted({*repository.glob(LEFT), *repository.glob(f"*/{LEFT}")})
    except OSError:
        return
    if left:
        names = ", ".join(str(path.relative_to(repository)) for path in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        yield warning(
            ABOUT, f"an export left {names}{more} behind", "if none runs now, the next one sweeps it, or remove it"
        )
