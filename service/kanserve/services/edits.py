"""Use case of edits: another process edits a version with `kanserve edit`, and writes a new version to the repository.

The server does not import the exporter. The process has its own memory, ends with the call, and one runs at a time. The
new version appears like each other version: the server finds it in the repository, and does not serve it by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.shared import manifest as manifests
from kanexport.shared import safe_files, serialization
from kanexport.shared.manifest import Manifest
from kanexport.shared.sections import EDIT_BYTES, Edit
from kanserve.auth.permissions import Principal, Role
from kanserve.config.settings import Settings
from kanserve.errors import BadRequest, FailedPrecondition, Unavailable
from kanserve.models.registry import Registry
from kanserve.observability import logs
from kanserve.sandbox import pool
from kanserve.types import ModelInfo

SECONDS = 120.0  # of one process, at most
MEMORY, PER_BYTE = 2**31, 16  # bytes that it may have, and more for each byte of the network file
DOCUMENT = 2**26  # bytes of its output
EDITS = 1024  # edges of one request
FOLDER = "the repository"  # in place of its path in messages
STATE = (
    "RepositoryError",
    "MissingPackage",
    "LimitExceeded",
)  # kinds of errors about the server, and not about the request
NUMBERS = {"clamp": 2, "shift": 1, "raise": 1}  # of an operation; points have pairs
TEXTS = ("to", "monotone")
log = logs.get_logger("edits")


@dataclass(frozen=True, slots=True)
class EdgeChange:
    """Operation on one edge. `text` and `numbers`: as in EdgeEdit of kan.proto."""

    layer: int
    source: int
    destination: int
    operation: str
    text: str
    numbers: tuple[float, ...]

    def entry(self) -> dict[str, Any]:
        """The entry of a file for `kanserve edit --file`. Raises BadRequest."""
        value: Any
        if self.operation in TEXTS:
            value = self.text
        elif self.operation == "zero":
            value = True
        elif self.operation == "points":
            if not self.numbers or len(self.numbers) % 2:
                raise self._wrong("pairs of x and y")
            value = list(zip(self.numbers[::2], self.numbers[1::2], strict=True))
        else:
            if self.operation not in NUMBERS:
                raise BadRequest(
                    f"unknown operation {self.operation[:40]!r}",
                    code="operation-unknown",
                    hint=f"send one of {', '.join((*TEXTS, 'zero', *NUMBERS, 'points'))}",
                )
            if len(self.numbers) != NUMBERS[self.operation]:
                raise self._wrong(f"{NUMBERS[self.operation]}")
            value = self.numbers[0] if len(self.numbers) == 1 else list(self.numbers)
        return {"edge": f"{self.layer}:{self.source}:{self.destination}", self.operation: value}

    def _wrong(self, expected: str) -> BadRequest:
        return BadRequest(
            f"{self.operation} has {len(self.numbers)} numbers, expected {expected}",
            code="edit-value-invalid",
            hint="send the numbers of the operation in the field numbers",
        )


@dataclass(frozen=True, slots=True)
class EditRequest:
    """Edits of a version. `preview`: write nothing. `author`: the caller's name."""

    model: str
    version: str
    edits: Sequence[EdgeChange]
    preview: bool
    author: str


@dataclass(frozen=True, slots=True)
class EditedCurve:
    """Curve of an edge at points x, before and after."""

    edge: tuple[int, int, int]
    x: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Edited:
    """Result of edits. `version`: the new one, 0 for a preview."""

    model: str
    version: int
    edit: Edit
    curves: tuple[EditedCurve, ...]
    notes: tuple[str, ...]


class Editor:
    """Editor of the models in the repository of one server."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._busy = False

    async def edit(self, request: EditRequest) -> Edited:
        """Edit a version. Raises FailedPrecondition if the server or the version allows no edits, BadRequest for edits
        that the exporter rejects, and Unavailable while another edit runs."""
        if not self._settings.allow_edits:
            raise FailedPrecondition(
                "the server accepts no edits",
                code="edits-off",
                hint="start the server with --allow-edits, or use `kanserve edit` on the repository",
            )
        info = self._registry.resolve(request.model, request.version).info
        folder = self._folder(info)
        if not (folder / manifests.FILE_NAME).is_file():
            raise FailedPrecondition(
                f"model '{info.name}' version {info.version} has no folder NAME/VERSION with a manifest",
                code="edits-need-repository",
                hint="serve a model repository with the layout NAME/VERSION",
            )
        if not 1 <= len(request.edits) <= EDITS:
            raise BadRequest(
                f"the request has {len(request.edits)} edits, expected 1 to {EDITS}",
                code="edits-missing",
                hint="send one entry for each edge",
            )
        entries = [change.entry() for change in request.edits]
        if self._busy:
            raise Unavailable(
                "another edit is in progress", code="edit-in-progress", hint="send the request again when it has ended"
            )
        self._busy = True
        try:
            document = await self._run(folder, entries, request)
        finally:
            self._busy = False
        edit = serialization.build(Edit, document["edit"], "edit")
        curves = []
        for curve in document["difference"]["curves"]:
            layer, source, destination = map(int, curve["edge"].split(":"))
            points = (tuple(map(_number, curve[name])) for name in ("x", "before", "after"))
            curves.append(EditedCurve((layer, source, destination), *points))
        version = 0 if request.preview else int(document["version"])
        edited = Edited(str(document["name"]), version, edit, tuple(curves), tuple(map(str, document["notes"])))
        if not request.preview:
            log.info("version_edited", model=info.name, version=edited.version, parent=info.version)
        return edited

    def accepts(self, info: ModelInfo, manifest: Manifest, caller: Principal) -> bool:
        """Whether `edit` accepts edits of a version from a caller: the server allows edits, the caller may send them,
        and the repository has the exact network of the version."""
        return (
            self._settings.allow_edits
            and Role.ADMIN in caller.roles
            and not manifest.approximation.quantize
            and any(file.path == manifests.NETWORK_FILE for file in manifest.files)
            and (self._folder(info) / manifests.FILE_NAME).is_file()
        )

    def _folder(self, info: ModelInfo) -> Path:
        """The folder of a version in a repository with the layout NAME/VERSION."""
        return self._settings.repository / info.name / str(info.version)

    async def _run(self, folder: Path, entries: list[dict[str, Any]], request: EditRequest) -> dict[str, Any]:
        """The document of `kanserve edit --json`. Raises the errors of `edit`."""
        written = json.dumps({"edits": entries}).encode()
        if len(written) > EDIT_BYTES:
            raise BadRequest(
                f"the edits have {len(written)} bytes as JSON, expected at most {EDIT_BYTES}",
                code="edits-too-large",
                hint="send fewer points, or fewer edges in one request",
            )
        with tempfile.TemporaryDirectory(prefix="kanserve-edit-") as own:
            file = Path(own) / "edits.json"
            safe_files.create(file, [written], mode=safe_files.OWN_FILE)
            arguments = ["edit", str(folder), "--file", str(file), f"--author={request.author[:100]}", "--json"]
            arguments += ["--dry-run"] if request.preview else []
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "kanserve", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=pool.environment(),
                limit=DOCUMENT,
            )
            limit_memory(process.pid, folder)
            try:
                output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
            except TimeoutError:
                raise FailedPrecondition(
                    f"the edit took more than {SECONDS:.0f} seconds",
                    code="edit-timeout",
                    hint="use `kanserve edit` on the repository",
                ) from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        try:
            document = json.loads(output)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise FailedPrecondition(
                f"the process of the edit ended with code {process.returncode} and without a result",
                code="edit-failed",
                hint="run `kanserve edit` on the repository, which prints the reason",
            )
        if "error" not in document:
            return document
        error, root = document["error"], str(self._settings.repository)
        message, hint = (str(error.get(key, "")) for key in ("message", "hint"))
        for path, words in {str(file): "the request", os.path.abspath(root): FOLDER, root: FOLDER}.items():
            message, hint = message.replace(path, words), hint.replace(path, words)
        kind = FailedPrecondition if error.get("kind") in STATE or error.get("exit_code") == 3 else BadRequest
        raise kind(message, code=str(error.get("code", "edit-failed")), hint=hint)


def limit_memory(pid: int, folder: Path) -> None:
    """Limit the memory of the process that edits the version in `folder`, before it has read the network."""
    most = MEMORY
    with contextlib.suppress(OSError):  # the process reports a file that is missing
        most += PER_BYTE * (folder / manifests.NETWORK_FILE).stat().st_size
    with contextlib.suppress(ProcessLookupError):  # it has ended
        resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


def _number(value: Any) -> float:
    """A number of the document, which has None or a name for numbers that are not finite."""
    return math.nan if value is None else float(value)
