"""Checks of a model repository: each version by the server's own rules, and remains of interrupted exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kanexport.shared import temp_dirs
from kanserve.cli import inventory
from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.cli.inventory import Entry
from kanserve.cli.options import InputError
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError
from kanserve.repository import layout
from kanserve.system import resources

ABOUT = "models"
LEFT = f"{temp_dirs.HIDDEN}*"  # of an export that was killed
AGAIN = "export the model again (`kanserve export ... --force`), or remove the folder of the version"


def check_repository(settings: Settings) -> Iterator[Finding]:
    """Findings about the repository: one for each version, and one for the memory of all."""
    repository = settings.repository
    try:
        entries = inventory.of_folder(repository, hard_links=settings.allow_hard_links)
    except InputError as error:
        yield problem(ABOUT, error.message, error.hint or "allow the server's user to read the folder and its files")
        return
    yield from _named(settings)
    states = (*inventory.USABLE, inventory.PLAIN) if settings.plain_onnx else inventory.USABLE
    served = [entry for entry in entries if entry.state in states]
    if not served:
        yield problem(
            ABOUT,
            f"{repository} has no valid model version",
            f"export one: `kanserve export CHECKPOINT --repository {repository} --name NAME`",
        )
    for entry in entries:
        yield _judged(entry, settings)
    candidates = layout.scan(settings.repository, plain_onnx=settings.plain_onnx, hard_links=settings.allow_hard_links)
    known = {(candidate.name, candidate.version) for candidate in candidates}
    for name, file in layout.default_files(candidates).items():
        if isinstance(file, LoadError):
            yield problem(ABOUT, f"servers ignore the default version of {name}: {file}", file.hint)
        elif (name, file.version) not in known:
            text = f"the file {layout.DEFAULT_FILE} of {name} names version {file.version}, which is missing"
            yield problem(ABOUT, text, f"add the version, or run `kanserve rollback {name} --repository FOLDER`")
    yield free_memory(sum(entry.size or 0 for entry in served), settings, resources.available())
    yield from _left_behind(repository)


def _named(settings: Settings) -> Iterator[Finding]:
    """Finding about a repository whose only model has the name of the settings; none without a name."""
    if not settings.model_name:
        return
    try:
        links, plain = settings.allow_hard_links, settings.plain_onnx
        candidates = layout.scan(settings.repository, plain_onnx=plain, hard_links=links)
        layout.served_as(candidates, settings.model_name)
    except ConfigError as error:
        yield problem(ABOUT, str(error), error.hint)
    else:
        yield ok(ABOUT, f"the only model is served as '{settings.model_name}'")


def free_memory(size: int, settings: Settings, free: int | None) -> Finding:
    """Finding about the memory of versions with files of `size` bytes and of messages. `free`: available bytes; None if
    the system does not report them."""
    models, messages = resources.FACTOR * size * settings.workers, settings.max_inflight_bytes * settings.workers
    needed = f"models need up to {_mib(models)}, messages up to {_mib(messages)}"
    if free is None:
        return ok("memory", f"{needed}; the system does not report the available memory")
    if models + messages > free:
        text = f"{needed}, but only {_mib(free)} are available"
        return warning("memory", text, "raise the memory limit, or reduce versions, workers or max_inflight_bytes")
    return ok("memory", f"{needed}; {_mib(free)} are available")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _judged(entry: Entry, settings: Settings) -> Finding:
    named = f"{entry.name} version {entry.version}"
    if entry.state == inventory.INVALID:
        return problem(ABOUT, f"{named} is invalid: {entry.reason}", AGAIN)
    if entry.state == inventory.PLAIN and not settings.plain_onnx:
        return warning(ABOUT, f"{named} has no manifest and is ignored", "serve it without verification: --plain-onnx")
    if entry.state == inventory.IGNORED:
        return warning(ABOUT, f"{named} is ignored: {entry.reason}", "none, if you intend this")
    if (entry.size or 0) > settings.max_file_bytes:
        return warning(
            ABOUT,
            f"the files of {named} have {entry.size} bytes in total; the limit per file is {settings.max_file_bytes}",
            "raise max_file_bytes if one file exceeds it",
        )
    if entry.unused:
        return warning(
            ABOUT, f"{named}: entries of config.pbtxt without effect: {', '.join(entry.unused)}", "remove the entries"
        )
    return ok(ABOUT, f"{named}: files and manifest are valid")


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
            ABOUT,
            f"remains of an interrupted export: {names}{more}",
            "if no export is running, remove them; the next export removes them too",
        )
