"""Into the model repository: all or nothing.

    NAME/config.pbtxt          for Triton and KServe, which load the folder unchanged
    NAME/VERSION/model.onnx    and edges_l0.onnx, edges_l1.onnx, ...
    NAME/VERSION/weights.bin   of a large model: the constants of all of them
    NAME/VERSION/manifest.json written last

Everything is written into a hidden folder first and appears by one rename; a
reader of the repository sees the whole version or none. A killed export leaves
at most the hidden folder, which the next export of that name removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kanexport import manifest as contract
from kanexport.errors import RepositoryError
from kanexport.manifest import Manifest

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CONFIG_FILE = "config.pbtxt"
Parts = Sequence[bytes | memoryview]  # a large file's bytes, one after the other

HIDDEN = ".kanexport-"
OLD = "-old-"


def check_target(repository: Path, name: str, version: int, *, force: bool) -> None:
    """Refuse early what `pack` would refuse. Raises RepositoryError."""
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"model name {name[:140]!r} is not usable",
            hint="letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
        )
    if not 1 <= version < 2**63:
        raise RepositoryError(f"version {str(version)[:30]} is not usable", hint="a positive integer below 2**63")
    try:
        folder = repository.is_dir() or not repository.exists()
        taken = (repository / name / str(version)).exists()
    except OSError as error:
        raise RepositoryError(f"{str(repository)[:300]} cannot be read: {error.strerror}") from error
    if not folder:
        raise RepositoryError(f"{repository} is not a folder")
    if taken and not force:
        raise RepositoryError(
            f"{repository / name / str(version)} exists already",
            hint=f"choose another version with --version {version + 1}, or replace it with --force",
        )


def pack(repository: Path, manifest: Manifest, files: Mapping[str, bytes | Parts], *, force: bool) -> Path:
    """Write one version and return its folder. Raises RepositoryError; then the
    repository is as it was."""
    check_target(repository, manifest.name, manifest.version, force=force)
    home = repository / manifest.name
    config = triton_config(manifest)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        if home.exists():
            _check_config(home, manifest, force=force)
            with _hidden(home) as staging:
                _write_version(staging, manifest, files)
                _appear(staging, home / str(manifest.version))
            _replace(home / CONFIG_FILE, config, unless=_signature(manifest))
        else:
            with _hidden(repository) as staging:
                inner = staging / str(manifest.version)
                inner.mkdir()
                _write_version(inner, manifest, files)
                _write(staging / CONFIG_FILE, config)
                os.rename(staging, home)
    except OSError as error:
        raise RepositoryError(f"{home} cannot be written: {error.strerror}") from error
    return home / str(manifest.version)


def triton_config(manifest: Manifest) -> bytes:
    """config.pbtxt for Triton's onnxruntime backend. All versions are served, as kanserve does: Triton by itself
    serves the highest alone. Runs of one thread side by side gain Triton 61 % over its own choice, one run of all
    threads ([784, 64, 10], 64 rows a request, two cores)."""
    group = f'name: "{contract.TRITON_RUNS}" count: {contract.TRITON_INSTANCES} kind: KIND_CPU'
    threads = f'key: "intra_op_thread_count" value: {{ string_value: "{contract.TRITON_THREADS}" }}'
    text = f"version_policy {{ all {{ }} }}\ninstance_group [ {{ {group} }} ]\nparameters {{ {threads} }}\n"
    return _signature(manifest) + text.encode()


def _signature(manifest: Manifest) -> bytes:
    """How config.pbtxt begins: what all versions of a model share. dims leave out the batch. What comes after it
    is about how the model runs, and an operator may have changed it."""

    def tensors(kind: str, specs: tuple[contract.TensorSpec, ...]) -> str:
        return f"{kind} [\n" + ",\n".join(map(tensor, specs)) + "\n]\n"

    def tensor(spec: contract.TensorSpec) -> str:
        dims = ", ".join(map(str, spec.shape[1:]))
        return f'  {{ name: "{spec.name}" data_type: TYPE_{spec.datatype} dims: [ {dims} ] }}'

    text = f'name: "{manifest.name}"\nbackend: "onnxruntime"\nmax_batch_size: {manifest.max_batch_size}\n'
    return (text + tensors("input", manifest.inputs) + tensors("output", manifest.outputs)).encode()


def _check_config(home: Path, manifest: Manifest, *, force: bool) -> None:
    """All versions of a model share one config: other shapes are another model."""
    path = home / CONFIG_FILE
    others = [p for p in home.iterdir() if p.name.isdecimal() and p.name != str(manifest.version)]
    same = path.is_file() and path.read_bytes().startswith(_signature(manifest))
    if path.is_file() and not same and others and not force:
        raise RepositoryError(
            f"{home} holds versions with another input, output or batch size than this export",
            hint="choose another --name, or --force to replace the shared config.pbtxt",
        )


def _write_version(folder: Path, manifest: Manifest, files: Mapping[str, bytes | Parts]) -> None:
    for name, parts in files.items():
        _write(folder / name, *([parts] if isinstance(parts, bytes) else parts))
    _write(folder / contract.FILE_NAME, contract.dumps(manifest))


def _write(path: Path, *parts: bytes | memoryview) -> None:
    """Create a file that is not there yet, following no link, and flush it to disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes, *, unless: bytes) -> None:
    """Write it, `unless` the file that is there begins like that and goes on."""
    found = path.read_bytes() if path.is_file() else b""
    if found.startswith(unless) and found != unless:
        return
    temporary = path.with_name(f"{HIDDEN}{secrets.token_hex(4)}")
    _write(temporary, data)
    os.replace(temporary, path)


def _appear(staging: Path, target: Path) -> None:
    """One rename; with --force the old version steps aside first, and comes back if
    the new one does not get there (`_sweep` sees to that after a kill)."""
    if not target.exists():
        os.rename(staging, target)
        return
    aside = target.with_name(f"{HIDDEN}{_owner()}-{secrets.token_hex(4)}{OLD}{target.name}")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    finally:
        if target.exists():
            _remove(aside)
        else:
            os.rename(aside, target)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _hidden(parent: Path) -> Iterator[Path]:
    """A hidden folder beside the target, gone afterwards unless it was renamed."""
    with _undisturbed():
        _sweep(parent)
        staging = parent / f"{HIDDEN}{_owner()}-{secrets.token_hex(4)}"
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM and Ctrl-C wait: a clean-up that is broken off leaves something behind.
    Not a signal mask, since other threads of the process would take the signal."""
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


def _owner() -> str:
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]
    return f"{host}-{os.getpid()}"


def _sweep(parent: Path) -> None:
    """Remove what exports of this host left behind whose process is gone. A version
    that had stepped aside for one that never came is put back."""
    host = _owner().rpartition("-")[0]
    for path in parent.glob(f"{HIDDEN}{host}-*"):
        pid = path.name.removeprefix(f"{HIDDEN}{host}-").partition("-")[0]
        if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        _, old, version = path.name.partition(OLD)
        if old and version.isdecimal() and not (parent / version).exists():
            os.rename(path, parent / version)
        else:
            _remove(path)
