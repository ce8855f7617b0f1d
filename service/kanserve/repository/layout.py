"""Layout of a repository folder: candidates by name, then file bytes, read once and checked.

There are two layouts: Triton's `<name>/<version>/...`, and the single model that KServe mounts. There the folder
itself is the model (`1/manifest.json`, or the files at the top). The folder may be a symbolic link, which is
resolved once per scan. So is the `..data` link of a ConfigMap mount, which Kubernetes swaps atomically. No link
below is followed. Names that do not match are ignored, such as the exporter's hidden temporary folders.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kanexport.shared import manifest as manifests
from kanexport.shared import safe_files, serialization
from kanexport.shared.manifest import Manifest, ManifestError
from kanexport.shared.sections import NO_EDIT
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.repository import pbtxt
from kanserve.repository.pbtxt import SILENT, OperatorConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
EDIT = re.compile(rb'"edit"\s*:')  # the key in a manifest
VERSION = re.compile(r"[1-9][0-9]{0,17}")
SHARED_HINT = "copy the file, or set allow_hard_links if the file system shares equal files"
EXPORT_AGAIN = "export the model again"
RAISE_LIMIT = "raise the setting max_file_bytes"
COPY_AGAIN = "copy the version into the repository again, or export it again"
DEFAULT_FILE, DEFAULT_LIMIT = "default", 64  # name in the folder of a model; bytes
PROMOTE_AGAIN = "write the file with `kanserve promote NAME VERSION --repository FOLDER`, or remove it"
MOUNTED = "..data"  # the link through which Kubernetes mounts a ConfigMap, a Secret or a projected volume


@dataclass(frozen=True, slots=True)
class Candidate:
    """Version directory in a repository."""

    name: str  # name under which the server serves it
    version: int
    root: Path
    steps: tuple[str, ...]  # path components from the repository root
    hard_links: bool = False  # True if its files may have other names as well
    stored: str = ""  # name in its files, if that is not `name`; otherwise empty


@dataclass(frozen=True, slots=True)
class Bundle:
    """Bytes of one version, each file checked against the manifest."""

    name: str
    version: int
    manifest: Manifest | None  # None for a plain ONNX file
    files: Mapping[str, bytes]
    digest: str  # sha256 of the graph
    config: OperatorConfig = SILENT  # contents of the operator's config.pbtxt, which no manifest lists
    content: str = ""  # hash of the manifest and the config
    ignored: tuple[str, ...] = ()  # names of other files in the folder, which the server does not read


@dataclass(frozen=True, slots=True)
class DefaultFile:
    """Contents of the file `default` of a model: the default version of each server of the repository, on the first
    line. The second line may have the previous one; 0: unknown."""

    version: int
    previous_version: int = 0

    def text(self) -> str:
        """The contents of the file."""
        return "".join(f"{number}\n" for number in (self.version, self.previous_version) if number)


def scan(repository: Path, *, plain_onnx: bool, hard_links: bool = False) -> list[Candidate]:
    """All version directories, by name and version. Reads no model.

    With `plain_onnx` a directory that holds `model.onnx` and no manifest counts; `hard_links` as in Candidate.
    Raises ConfigError if `repository` is not a readable directory.
    """
    try:
        root = _root(repository)
        entries = sorted(os.listdir(root))
    except OSError as error:
        raise ConfigError(
            f"repository {repository} cannot be read: {error.strerror or error}",
            code="repository-not-readable",
            hint="pass an existing directory that the server may read",
        ) from error
    markers = (manifests.FILE_NAME, manifests.MODEL_FILE) if plain_onnx else (manifests.FILE_NAME,)
    called = next(filter(NAME.fullmatch, (repository.name, root.name)), "model")
    if set(markers) & set(entries):
        return [_single(Candidate(called, 1, root, (), hard_links))]
    versions = _versions(root, entries, markers)
    if versions:
        return [_single(Candidate(called, int(version), root, (version,), hard_links)) for version in versions]
    candidates = [
        Candidate(name, int(version), root, (name, version), hard_links)
        for name in filter(NAME.fullmatch, entries)
        for version in _versions(root / name, _names(root / name), markers)
    ]
    return sorted(candidates, key=lambda candidate: (candidate.name, candidate.version))


def served_as(candidates: Iterable[Candidate], name: str) -> list[Candidate]:
    """The versions of the only model of a repository, under another name. Raises ConfigError for several models."""
    versions = list(candidates)
    models = sorted({candidate.steps[0] for candidate in versions if len(candidate.steps) > 1})
    if len(models) > 1:
        raise ConfigError(
            f"the repository has {len(models)} models ({', '.join(models[:3])}), expected one to serve as '{name}'",
            code="repository-not-one-model",
            hint="pass the folder of one model as the repository, or remove model_name from the settings",
        )
    return [
        candidate if candidate.name == name else replace(candidate, name=name, stored=candidate.name)
        for candidate in versions
    ]


Texts = Mapping[str, bytes]  # the text files of a version by name, read and not parsed


def parsed(texts: Texts) -> Manifest | None:
    """The parsed manifest; None without one. Raises LoadError if a text is not valid."""
    try:
        pbtxt.read(texts.get(pbtxt.FILE_NAME, b""))
        data = texts.get(manifests.FILE_NAME)
        manifest = None if data is None else manifests.loads(data)
        if data is None or manifest is None or not manifest.stored:
            return manifest
        if manifests.NUMBERS_FILE not in texts:
            raise _missing(manifests.NUMBERS_FILE)
        return manifests.loads(data, texts[manifests.NUMBERS_FILE])
    except ManifestError as error:
        raise _from_manifest(error) from error


def texts(candidate: Candidate) -> Texts:
    """The texts that the server parses before it reads anything else. Raises LoadError."""
    try:
        data = _config_bytes(candidate)
        files = {} if data is None else {pbtxt.FILE_NAME: data}
        with _opened(candidate.root, candidate.steps) as directory:
            entries = os.listdir(directory)
            if manifests.FILE_NAME in entries:
                files[manifests.FILE_NAME] = _read(candidate, directory, manifests.FILE_NAME, manifests.SIZE_LIMIT)
                if manifests.NUMBERS_FILE in entries:
                    numbers = _read(candidate, directory, manifests.NUMBERS_FILE, serialization.LIMIT)
                    files[manifests.NUMBERS_FILE] = numbers
    except OSError as error:
        raise _unreadable(error) from error
    return files


def load(candidate: Candidate, max_file_bytes: int, known: Texts | None = None) -> Bundle:
    """Read one version: every listed file once, compared with size and sha256. Files larger than `max_file_bytes` are
    rejected. `known`: its texts, if they were read and checked before.

    Raises LoadError with the reason. The text names files by base name only.
    """
    known = texts(candidate) if known is None else known
    try:
        options = _labelled(candidate, known.get(pbtxt.FILE_NAME))
        with _opened(candidate.root, candidate.steps) as directory:
            if manifests.FILE_NAME not in known:
                data = _read(candidate, directory, manifests.MODEL_FILE, max_file_bytes, too_large=RAISE_LIMIT)
                digest = hashlib.sha256(data).hexdigest()
                files = {manifests.MODEL_FILE: data}
                bundle = Bundle(candidate.name, candidate.version, None, files, digest, options)
                summary = digest.encode()
            else:
                bundle = _verified(candidate, directory, known, max_file_bytes, options)
                summary = known[manifests.FILE_NAME]  # which names the hashes of all other files
        return replace(bundle, content=hashlib.sha256(summary + repr(options).encode()).hexdigest())
    except OSError as error:
        raise _unreadable(error) from error
    except ManifestError as error:
        raise _from_manifest(error) from error


def _unreadable(error: OSError) -> LoadError:
    return LoadError(
        LoadReason.UNREADABLE,
        f"the version cannot be read: {error.strerror or error}",
        code="version-not-readable",
        hint="give the server read permission for the directory and its files",
    )


def _missing(name: str) -> LoadError:
    return LoadError(LoadReason.INTEGRITY, f"{name} is missing", code="file-missing", hint=COPY_AGAIN)


def _from_manifest(error: ManifestError) -> LoadError:
    return LoadError(LoadReason.MANIFEST, str(error), code=error.code, hint=error.hint)


def manifest(candidate: Candidate) -> Manifest:
    """The manifest of a version, not compared with its files, and without the lists that have their own file. Raises
    LoadError, OSError, ManifestError."""
    return manifests.loads(_manifest_bytes(candidate))


def _manifest_bytes(candidate: Candidate) -> bytes:
    with _opened(candidate.root, candidate.steps) as directory:
        return _read(candidate, directory, manifests.FILE_NAME, manifests.SIZE_LIMIT)


def is_edit(candidate: Candidate) -> bool:
    """Whether a version is an edit without a release, which no server serves by default. False for a version that
    cannot be read."""
    try:
        data = _manifest_bytes(candidate)
        # A parse takes up to 0.1 s, and a quote in a string has a backslash.
        edit = manifests.loads(data).edit if EDIT.search(data) else NO_EDIT
    except (LoadError, OSError, ManifestError):
        return False
    return bool(edit) and not edit.released


def config(candidate: Candidate) -> OperatorConfig:
    """Operator config of the model; an empty one if there is no config.pbtxt. Raises LoadError, OSError."""
    return _labelled(candidate, _config_bytes(candidate))


def _config_bytes(candidate: Candidate) -> bytes | None:
    with _opened(candidate.root, candidate.steps[:-1]) as directory:
        if pbtxt.FILE_NAME not in os.listdir(directory):
            return None
        data = _read(candidate, directory, pbtxt.FILE_NAME, pbtxt.SIZE_LIMIT)
    if not data:  # a tool writes it in place, or was killed then; without its policy, other versions would serve
        raise LoadError(
            LoadReason.CONFIG,
            f"{pbtxt.FILE_NAME} is empty",
            code="config-empty",
            hint="copy the file again, or remove it",
        )
    return data


def default_file(candidate: Candidate) -> DefaultFile | None:
    """The file `default` next to the versions of a model; None if there is none. A folder that is itself one version
    has none. Raises LoadError for an invalid or unreadable one."""
    if not candidate.steps or not os.path.lexists(os.path.join(candidate.root, *candidate.steps[:-1], DEFAULT_FILE)):
        return None
    try:
        with _opened(candidate.root, candidate.steps[:-1]) as directory:
            data = _read(candidate, directory, DEFAULT_FILE, DEFAULT_LIMIT)
    except LoadError as error:
        raise LoadError(error.reason, str(error), code=error.code, hint=PROMOTE_AGAIN) from error
    except OSError as error:
        raise _unreadable(error) from error
    text = data.decode("ascii", "replace")
    lines = text.splitlines()
    if len(lines) not in (1, 2) or not all(map(VERSION.fullmatch, lines)):
        raise LoadError(
            LoadReason.CONFIG,
            f"{DEFAULT_FILE} has {text[:30]!r}, expected one version number per line, on one or two lines",
            code="default-file-invalid",
            hint=PROMOTE_AGAIN,
        )
    return DefaultFile(*map(int, lines))


def default_files(candidates: Iterable[Candidate]) -> dict[str, DefaultFile | LoadError]:
    """The file `default` of each model that has one, or the error of an invalid one, by model."""
    files: dict[str, DefaultFile | LoadError] = {}
    for name, candidate in {candidate.name: candidate for candidate in candidates}.items():
        try:
            own = default_file(candidate)
        except LoadError as error:
            files[name] = error
        else:
            if own is not None:
                files[name] = own
    return files


def _labelled(candidate: Candidate, data: bytes | None) -> OperatorConfig:
    """The operator's config, with the name of the candidate, and the lines of the label files that it names."""
    options = SILENT if data is None else pbtxt.read(data)
    if candidate.stored and options.name == candidate.stored:
        options = replace(options, name=candidate.name)
    if not options.labels:
        return options
    with _opened(candidate.root, candidate.steps[:-1]) as directory:
        labels = (
            replace(entry, lines=pbtxt.lines(entry.file, _read(candidate, directory, entry.file, pbtxt.LABELS_LIMIT)))
            for entry in options.labels
        )
        return replace(options, labels=tuple(labels))


def left_out(candidates: Iterable[Candidate]) -> dict[Candidate, str]:
    """Candidates that the version_policy of their config.pbtxt excludes, with the policy in words. An unreadable
    config excludes none, because each load fails for it."""
    models: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        models.setdefault(candidate.name, []).append(candidate)
    out: dict[Candidate, str] = {}
    for versions in models.values():
        with contextlib.suppress(LoadError, OSError):
            policy = config(versions[0]).versions
            if policy.latest:
                policy = replace(policy, edits=frozenset(own.version for own in versions if is_edit(own)))
            for file in default_files(versions).values():
                if isinstance(file, DefaultFile):
                    policy = replace(policy, default=file.version)
            served = policy.served([candidate.version for candidate in versions])
            out |= {candidate: str(policy) for candidate in versions if candidate.version not in served}
    return out


def _root(repository: Path) -> Path:
    """Folder of the models, with all links resolved. Raises OSError."""
    root = repository.resolve(strict=True)
    mounted = root / MOUNTED
    if not mounted.is_symlink():
        return root
    inside = mounted.resolve(strict=True)
    return inside if inside.parent == root and inside.is_dir() else root


def _single(candidate: Candidate) -> Candidate:
    """Candidate of a folder that is itself the model. Its manifest, if there is one, names it. A load reports an
    unreadable folder."""
    name, version = heading(candidate)
    return replace(
        candidate, name=name or candidate.name, version=candidate.version if candidate.steps else version or 1
    )


def heading(candidate: Candidate) -> tuple[str, int]:
    """Name and version in the manifest of a folder that is a model; "" and 0 if the manifest cannot be read."""
    with contextlib.suppress(OSError):
        about = candidate.root.joinpath(*candidate.steps, manifests.FILE_NAME).lstat()
        return _heading(candidate, (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return "", 0


@functools.lru_cache(64)
def _heading(candidate: Candidate, facts: tuple[int, ...]) -> tuple[str, int]:
    """Name and version in a manifest, cached by the facts of its file; "" and 0 for an invalid one. Raises OSError."""
    with contextlib.suppress(ManifestError, LoadError):
        name, version = manifests.heading(_manifest_bytes(candidate))
        if NAME.fullmatch(name):
            return name, version
    return "", 0


def _names(directory: Path) -> list[str]:
    try:
        return [] if directory.is_symlink() else sorted(os.listdir(directory))
    except OSError:
        return []


def _versions(directory: Path, entries: list[str], markers: tuple[str, ...]) -> list[str]:
    """The entries that are version directories: a number for a name, and a marker file inside."""
    return [entry for entry in entries if VERSION.fullmatch(entry) and set(markers) & set(_names(directory / entry))]


@contextlib.contextmanager
def _opened(root: Path, steps: tuple[str, ...]) -> Iterator[int]:
    """The directory, reached step by step so that no link is followed."""
    with contextlib.ExitStack() as stack:
        current = stack.enter_context(safe_files.directory(root, links=True))
        for step in steps:
            current = stack.enter_context(safe_files.directory(step, within=current))
        yield current


def _verified(
    candidate: Candidate, directory: int, known: Texts, max_file_bytes: int, options: OperatorConfig
) -> Bundle:
    """Bundle with a manifest. Raises LoadError, OSError, ManifestError."""
    manifest = parsed(known)
    assert manifest is not None
    stored = candidate.stored or candidate.name
    if manifest.name != stored:
        raise LoadError(
            LoadReason.MANIFEST,
            f"the manifest has the name {manifest.name!r}, the folder {stored!r}",
            code="manifest-name-differs",
            hint=f"export the model with --name {stored}",
        )
    if manifest.version != candidate.version:
        hint = f"rename the folder to {manifest.version}, or export the model with --version {candidate.version}"
        if os.path.isdir(candidate.root.joinpath(*candidate.steps[:-1], str(manifest.version))):
            hint = f"make a valid copy: `kanserve copy {candidate.name} {manifest.version} {candidate.version} --force`"
        raise LoadError(
            LoadReason.MANIFEST,
            f"the manifest has version {manifest.version}, the folder {candidate.version}",
            code="manifest-version-differs",
            hint=hint,
        )
    # The server ignores files that the manifest does not list: tools that copy models leave partial files and files
    # about a model. Numbers are an exception, because they are read before the manifest's list.
    listed = {entry.path for entry in manifest.files}
    if manifests.NUMBERS_FILE in known and manifests.NUMBERS_FILE not in listed:
        raise LoadError(
            LoadReason.INTEGRITY,
            f"the file {manifests.NUMBERS_FILE} is not listed in the manifest",
            code="file-not-listed",
            hint="remove the file, or export the model again",
        )
    beside = {manifests.FILE_NAME}
    if not candidate.steps:  # the folder of the version is that of the model
        beside |= {pbtxt.FILE_NAME, *(labels.file for labels in options.labels)}
    ignored = tuple(sorted(set(os.listdir(directory)) - listed - beside))
    files = _files(candidate, directory, known, manifest, max_file_bytes)
    graph = manifest.file(manifests.MODEL_FILE).sha256
    if candidate.stored:
        manifest = replace(manifest, name=candidate.name)
    return Bundle(manifest.name, manifest.version, manifest, files, graph, options, ignored=ignored)


def _files(candidate: Candidate, directory: int, known: Texts, manifest: Manifest, most: int) -> dict[str, bytes]:
    """The files that the manifest lists. Raises LoadError."""
    files: dict[str, bytes] = {}
    for entry in manifest.files:
        if os.path.basename(entry.path) != entry.path or not NAME.fullmatch(entry.path):
            raise LoadError(
                LoadReason.MANIFEST,
                f"the manifest lists {entry.path!r}, expected a plain file name",
                code="manifest-file-name-invalid",
                hint=EXPORT_AGAIN,
            )
        if entry.path == manifests.NUMBERS_FILE and entry.path in known:
            data = known[entry.path]
        else:
            data = _read(candidate, directory, entry.path, most, expected=entry.size, too_large=RAISE_LIMIT)
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise LoadError(
                LoadReason.INTEGRITY,
                f"{entry.path} has sha256 {digest}, the manifest has {entry.sha256}",
                code="file-hash-differs",
                hint=COPY_AGAIN,
            )
        files[entry.path] = data
    return files


def _read(
    candidate: Candidate, directory: int, name: str, limit: int, *, expected: int | None = None, too_large: str = ""
) -> bytes:
    """Read a file of the directory once. `too_large`: hint for a file beyond the limit. Raises LoadError."""
    try:
        return safe_files.read(name, limit, within=directory, hard_links=candidate.hard_links, expected=expected)
    except safe_files.UnsafeFile as error:
        hint = too_large if error.code == "file-too-large" else error.hint or COPY_AGAIN
        hint = SHARED_HINT if error.names else hint
        raise LoadError(LoadReason.INTEGRITY, f"{name} {error.reason}", code=error.code, hint=hint) from error
    except FileNotFoundError as error:
        raise _missing(name) from error
    except OSError as error:
        raise LoadError(
            LoadReason.UNREADABLE,
            f"{name} cannot be read: {error.strerror or error}",
            code="file-not-readable",
            hint="give the server read permission for the file",
        ) from error
