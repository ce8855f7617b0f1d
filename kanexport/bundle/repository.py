"""Transactional writer of a model repository: a version appears as a whole or not at all.

    NAME/config.pbtxt          for Triton and KServe, which load the folder unchanged
    NAME/VERSION/model.onnx    and edges_l0.onnx, edges_l1.onnx, ...
    NAME/VERSION/weights.bin   of a large model: the constants of all of them
    NAME/VERSION/network.safetensors   the exact network
    NAME/VERSION/numbers.bin   of a large manifest: its long lists of numbers
    NAME/VERSION/manifest.json written last

The exporter first writes everything into a hidden folder, which appears by one rename. It renames the version if the
model exists and its config fits, otherwise the whole model with its other versions. It replaces an old version or model
by an exchange of two names. So a reader sees the old or the new state, config and version alike, if the export fails
or is killed at any point. No step that can fail comes after this last step. Exports into one repository take turns for
it (`temp_dirs.locked`). A killed export leaves at most the hidden folder, which the next export and the server remove.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kanexport.errors import RepositoryError
from kanexport.shared import atomic, safe_files, temp_dirs, triton
from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import Manifest

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CONFIG_FILE = "config.pbtxt"
CONFIG_BYTES = 2**20  # bytes of a config.pbtxt, at most
FILE, FOLDER = 0o644, 0o755  # modes of new files and folders, before the umask
Parts = Sequence[bytes | memoryview]  # a large file's bytes, one after the other


def check_target(repository: Path, name: str, version: int, *, force: bool) -> None:
    """Reject early what `pack` would reject. Raises RepositoryError."""
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"invalid model name {name[:140]!r}",
            code="model-name-invalid",
            hint="use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
        )
    if not 1 <= version < 2**63:
        raise RepositoryError(
            f"invalid version {str(version)[:30]}",
            code="version-invalid",
            hint="pass a positive integer below 2**63 with --version",
        )
    try:
        folder = repository.is_dir() or not repository.exists()
        taken = (repository / name / str(version)).exists()
    except OSError as error:
        raise RepositoryError(
            f"{str(repository)[:300]} cannot be read: {error.strerror}",
            code="repository-unreadable",
            hint="check the path and the permissions of the repository",
        ) from error
    if not folder:
        raise RepositoryError(
            f"{repository} is not a folder", code="repository-unreadable", hint="name a folder with --repository"
        )
    if taken and not force:
        raise RepositoryError(
            f"{repository / name / str(version)} exists",
            code="version-exists",
            hint=f"choose another version with --version {version + 1}, or replace it with --force",
        )


def pack(repository: Path, manifest: Manifest, files: Mapping[str, bytes | Parts], *, force: bool) -> Path:
    """Write one version and return its folder. Raises RepositoryError; then the repository is unchanged."""
    home = repository / manifest.name
    try:
        check_target(repository, manifest.name, manifest.version, force=force)
        repository.mkdir(parents=True, exist_ok=True)
        with _undisturbed(), _hidden(repository, home) as (staging, inside):
            os.mkdir(str(manifest.version), FOLDER, dir_fd=inside)
            with safe_files.directory(str(manifest.version), within=inside) as version:
                for name, parts in files.items():
                    safe_files.create(name, [parts] if isinstance(parts, bytes) else parts, mode=FILE, within=version)
                safe_files.create(manifests.FILE_NAME, [manifests.dumps(manifest)], mode=FILE, within=version)
                os.fsync(version)
            safe_files.create(CONFIG_FILE, [triton_config(manifest)], mode=FILE, within=inside)
            os.fsync(inside)
            with temp_dirs.locked(repository):
                check_target(repository, manifest.name, manifest.version, force=force)  # another may have been faster
                _appear(staging, inside, home, manifest, force=force)
    except safe_files.UnsafeFile as error:
        raise RepositoryError(
            f"{home} cannot be written: {error.filename} {error.reason}", code=error.code, hint=error.hint
        ) from error
    except OSError as error:
        raise RepositoryError(
            f"{home} cannot be written: {error.strerror or error}",
            code="repository-not-writable",
            hint="check the permissions and the free space of the repository",
        ) from error
    except MemoryError as error:
        raise RepositoryError(
            f"{home} cannot be written: not enough memory",
            code="repository-not-writable",
            hint="free memory, or raise the memory limit",
        ) from error
    return home / str(manifest.version)


def triton_config(manifest: Manifest) -> bytes:
    """config.pbtxt for the onnxruntime backend of Triton. It serves all versions, as kanserve does; the default of
    Triton is the highest version only."""
    return _signature(manifest) + f"version_policy {{ all {{ }} }}\n{triton.choose(manifest).text()}".encode()


def _signature(manifest: Manifest) -> bytes:
    """The start of config.pbtxt, which all versions of a model share. dims leave out the batch. The rest is about
    how the model runs, and an operator may have changed it."""

    def tensors(kind: str, specs: tuple[manifests.TensorSpec, ...]) -> str:
        return f"{kind} [\n" + ",\n".join(map(tensor, specs)) + "\n]\n"

    def tensor(spec: manifests.TensorSpec) -> str:
        dims = ", ".join(map(str, spec.shape[1:]))
        return f'  {{ name: "{spec.name}" data_type: TYPE_{spec.datatype} dims: [ {dims} ] }}'

    text = f'name: "{manifest.name}"\nbackend: "onnxruntime"\nmax_batch_size: {manifest.max_batch_size}\n'
    return (text + tensors("input", manifest.inputs) + tensors("output", manifest.outputs)).encode()


def _check_config(home: Path, manifest: Manifest, *, force: bool) -> None:
    """All versions of a model share one config; other shapes need another model."""
    others = [p for p in home.iterdir() if p.name.isdecimal() and p.name != str(manifest.version)]
    config = _config(home, force=force)
    if config is not None and not config.startswith(_signature(manifest)) and others and not force:
        raise RepositoryError(
            f"{home} has versions with other inputs, outputs or batch size than this export",
            code="model-has-other-shapes",
            hint="choose another --name, or replace the shared config.pbtxt with --force",
        )


def _appear(staging: Path, inside: int, home: Path, manifest: Manifest, *, force: bool) -> None:
    """The last step, by one rename or exchange. `staging`, which `inside` has open, has the config and the version
    in the layout of a model folder."""
    if not os.path.lexists(home):
        os.rename(staging, home)
        return
    with safe_files.directory(home) as there:  # refuses a link to a folder, which no server serves
        _check_config(home, manifest, force=force)
        version, config, signature = str(manifest.version), _config(home, force=force), _signature(manifest)
        if config is not None and config.startswith(signature) and config != signature:
            _place(staging / version, home / version)
            return
        for name in os.listdir(there):
            if name not in (version, CONFIG_FILE) and not name.startswith(temp_dirs.HIDDEN):
                safe_files.copy(name, there, inside)
    _place(staging, home)


def _config(home: Path, *, force: bool) -> bytes | None:
    """The content of config.pbtxt of a model; None if there is none. With `force`, also None for a file that is not
    regular: the export replaces it and does not follow it. Raises OSError."""
    try:
        return safe_files.read(home / CONFIG_FILE, CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except safe_files.UnsafeFile:
        if not force:
            raise
        return None


def _place(new: Path, target: Path) -> None:
    """Exchange two names. If the system cannot exchange them in one step, the old one is moved aside first, and
    moved back if the new one does not arrive (after a kill, `temp_dirs.sweep` moves it back)."""
    if not os.path.lexists(target):
        os.rename(new, target)
        return
    if atomic.exchange(new, target):
        return
    with temp_dirs.staging_path(target.parent, old=target.name) as aside:
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except (OSError, MemoryError):
            os.rename(aside, target)
            raise


@contextlib.contextmanager
def _hidden(repository: Path, home: Path) -> Iterator[tuple[Path, int]]:
    """A hidden folder in the repository, and its descriptor. The folder and its contents are removed afterwards. The
    exporter writes through the descriptor, even if another process renames the folder meanwhile."""
    for parent in (repository, home):
        temp_dirs.sweep(parent)
    with temp_dirs.staging_path(repository) as staging:
        staging.mkdir(FOLDER)
        with temp_dirs.locked(staging, own=True) as inside:
            yield staging, inside


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay SIGTERM and Ctrl-C, because an interrupted clean-up leaves files behind. It is not a signal mask,
    because other threads of the process would receive the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: waiting.append(received))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if waiting:
            signal.raise_signal(waiting[0])
