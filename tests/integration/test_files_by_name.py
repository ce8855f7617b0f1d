"""Files that kanserve opens by name: in folders that other users can write, and in folders of the server.

The tests put every kind of file in each such place. kanserve does not block, reads within a limit, and changes
no other file.
"""

import contextlib
import ctypes
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kanexport.bundle import baseline
from kanexport.errors import CheckpointError, OptionError, RepositoryError
from kanexport.formats import checkpoint
from kanexport.shared import atomic
from kanserve.auth import token_file
from kanserve.auth.permissions import Role
from kanserve.cli import options
from kanserve.cli.options import InputError
from kanserve.client.sync import Client
from kanserve.config import sources
from kanserve.errors import ConfigError, LoadError
from kanserve.insight import store
from kanserve.repository import layout
from kanserve.system import pem
from tests.kanserve.insight.test_store import FILE, kept, open_file
from tests.support import toy_model
from tests.support.command_line import kanserve
from tests.support.documents import device
from tests.support.documents import folder as folder
from tests.support.failures import packed
from tests.support.reload_tools import draw
from tests.support.server_process import serving
from tests.support.tiers import full, spread
from tests.support.wait import until

SECRET = b"somebody else's\n" * 4
FOREIGN = 4711  # a user id
ROOT = os.geteuid() == 0

SYMLINK, HARD_LINK, FIFO, DEVICE, SOCKET = "symlink", "hard link", "FIFO", "device", "socket"
DIRECTORY, HUGE, NESTED = "directory", "huge file", "nested brackets"
WRITABLE, OWNER, UNREADABLE = "parent that everyone can write", "foreign owner", "unreadable"
GROUP = "another group's"


def fresh(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(path.name + "-before"))
    else:
        path.unlink(missing_ok=True)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as item:
        item.bind(os.path.relpath(path))


CAPABILITY_VERSION, OVERRIDES = 0x20080522, 0b110  # linux/capability.h: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def modes_hold() -> Iterator[None]:
    """File modes bind this thread, even if root runs the tests: the thread gives up two capabilities for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()

    def call(function: Callable[..., int]) -> None:
        if function(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capabilities")

    call(libc.capget)
    effective = sets[0]
    sets[0] = effective & ~OVERRIDES
    call(libc.capset)
    try:
        yield
    finally:
        sets[0] = effective
        call(libc.capset)


def written(path: Path, victim: Path, mode: int = 0o600) -> Path:
    """A valid file, whose owner or mode is to change."""
    atomic.write(path, victim.read_bytes(), mode=mode)
    return path


MAKE: dict[str, Callable[[Path, Path], object]] = {
    SYMLINK: lambda path, victim: path.symlink_to(victim),
    HARD_LINK: lambda path, victim: os.link(victim, path),
    FIFO: lambda path, victim: os.mkfifo(path, 0o600),
    DEVICE: lambda path, victim: device(path),
    SOCKET: lambda path, victim: bound(path),
    DIRECTORY: lambda path, victim: path.mkdir(),
    HUGE: lambda path, victim: (path.touch(0o600), os.truncate(path, 2**36)),
    NESTED: lambda path, victim: (path.touch(0o600), path.write_text("[" * 200_000)),
    WRITABLE: lambda path, victim: written(path, victim).parent.chmod(0o777),
    OWNER: lambda path, victim: os.chown(written(path, victim), FOREIGN, FOREIGN),
    UNREADABLE: lambda path, victim: written(path, victim, 0o000),
}
ONLY_ROOT = {DEVICE, OWNER, GROUP} if not ROOT else set()  # makes them
NAMED = frozenset({SYMLINK, HARD_LINK, WRITABLE, OWNER})  # the user named the file
FOUND = frozenset({WRITABLE, OWNER})  # others may write the folder; kanserve checks the bytes
OWNED: frozenset[str] = frozenset()  # no other user may have access to it


@dataclass(frozen=True)
class Place:
    """`use` makes valid files in a folder, yields the file, and then reads or writes it. It raises one of `errors` if
    kanserve rejects the file. `takes`: the kinds that kanserve accepts."""

    use: Callable[[Path], Iterator[Path]]
    takes: frozenset[str]
    errors: tuple[type[Exception], ...]


def read_settings(folder: Path) -> Iterator[Path]:
    path = folder / "settings.toml"
    path.write_text('log_level = "info"\n')
    yield path
    sources.load({"repository": folder}, config=path)


def read_tokens(folder: Path) -> Iterator[Path]:
    token_file.new(folder / "tokens", "ci", [Role.INFER])
    yield folder / "tokens"
    token_file.load(folder / "tokens")


def change_tokens(folder: Path) -> Iterator[Path]:
    token_file.new(folder / "tokens", "ci", [Role.INFER])
    yield folder / "tokens"
    token_file.new(folder / "tokens", "b", [Role.INFER])


def revoke_tokens(folder: Path) -> Iterator[Path]:
    for name in "ab":
        token_file.new(folder / "tokens", name, [Role.INFER])
    yield folder / "tokens"
    token_file.revoke(folder / "tokens", "b")


def read_certificates(folder: Path) -> Iterator[Path]:
    (folder / "ca.pem").write_bytes(pem.CERTIFICATE)
    yield folder / "ca.pem"
    try:
        pem.authorities(folder / "ca.pem")
    except pem.PemError as error:
        if not isinstance(error.__cause__, ssl.SSLError):  # kanserve read it; it has only a first line
            raise OSError(str(error)) from error


def read_own_token(folder: Path) -> Iterator[Path]:
    (folder / "token").write_text("secret\n")
    yield folder / "token"
    options.token(options.argparse.Namespace(token_file=str(folder / "token")))


def read_statistics(folder: Path) -> Iterator[Path]:
    open_file(folder / "state").write(kept(draw(3)))
    yield folder / "state" / FILE
    if open_file(folder / "state").own() is None:
        raise OSError("refused")


def write_statistics(folder: Path) -> Iterator[Path]:
    open_file(folder / "state").write(kept(draw(3)))
    yield folder / "state" / FILE
    item = open_file(folder / "state")
    item.write(kept(draw(4)))
    if item._keeping.logged:
        raise OSError("refused")


def repository_file(name: str) -> Callable[[Path], Iterator[Path]]:
    def use(folder: Path) -> Iterator[Path]:
        packed(folder / "models")
        (folder / "models" / "toy" / "labels").write_text("a\nb\n")
        config = folder / "models" / "toy" / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "y"', 'name: "y" label_filename: "labels"'))
        yield folder / "models" / "toy" / name
        for result in layout.scan(folder / "models", plain_onnx=False):
            layout.load(result, 2**20)

    return use


def the_models_own_folder(folder: Path) -> Iterator[Path]:
    """A folder that is the model: each scan reads the name from its manifest."""
    toy_model.write(folder, directory=folder / "models")
    yield folder / "models" / "manifest.json"
    (result,) = layout.scan(folder / "models", plain_onnx=False)
    layout.load(result, 2**20)


def export_beside(folder: Path) -> Iterator[Path]:
    packed(folder / "models")
    yield folder / "models" / "toy" / "config.pbtxt"
    packed(folder / "models", 2)


def read_checkpoint(folder: Path) -> Iterator[Path]:
    (folder / "model.pt").write_bytes(b"nothing")
    yield folder / "model.pt"
    try:
        checkpoint._read(folder / "model.pt")
    except CheckpointError as error:
        raise OSError(str(error)) from error


def read_rows(folder: Path) -> Iterator[Path]:
    (folder / "rows.csv").write_text("1,2\n3,4\n")
    yield folder / "rows.csv"
    baseline.load(folder / "rows.csv")


PLACES = {
    "settings": Place(read_settings, NAMED, (ConfigError,)),
    "tokens, read": Place(read_tokens, NAMED - {WRITABLE}, (ConfigError,)),
    # A user who does not own the directory, and root: see `disk.Folder`.
    "tokens, one more": Place(change_tokens, OWNED, (ConfigError,)),
    "tokens, one less": Place(revoke_tokens, OWNED, (ConfigError,)),
    "certificates": Place(read_certificates, NAMED, (OSError,)),
    "a caller's token": Place(read_own_token, NAMED, (InputError,)),
    "statistics, read": Place(read_statistics, OWNED, (OSError,)),
    "statistics, written": Place(write_statistics, frozenset({HUGE, NESTED, UNREADABLE}), (OSError,)),  # replaced
    "manifest": Place(repository_file("1/manifest.json"), FOUND, (LoadError,)),
    "graph": Place(repository_file("1/model.onnx"), FOUND, (LoadError,)),
    "config": Place(repository_file("config.pbtxt"), FOUND, (LoadError,)),
    "labels": Place(repository_file("labels"), FOUND | {NESTED}, (LoadError,)),  # labels are text
    "manifest of the folder": Place(the_models_own_folder, FOUND, (LoadError,)),
    "config, of an export": Place(export_beside, FOUND | {HARD_LINK}, (RepositoryError,)),
    "checkpoint": Place(read_checkpoint, NAMED | {NESTED}, (OSError,)),
    "rows": Place(read_rows, NAMED, (OptionError,)),
}


def outcome(place: Place, kind: str, folder: Path, victim: Path) -> str:
    """The fault in the way in which kanserve uses this kind of file at a place, or ""."""
    using = place.use(folder)
    path = next(using)
    victim.write_bytes(path.read_bytes() if kind in place.takes or kind in (WRITABLE, OWNER) else SECRET)
    victim.chmod(0o600)
    before = victim.read_bytes()
    fresh(path)
    MAKE[kind](path, victim)
    refused = False
    with modes_hold() if kind == UNREADABLE else contextlib.nullcontext():
        try:
            next(using, None)
        except place.errors:
            refused = True
    if victim.read_bytes() != before:
        return "changed the file of somebody else"
    return "" if refused is (kind not in place.takes) else "rejected" if refused else "accepted"


@spread("place", PLACES, 4)
def test_every_kind_in_every_place(place: str, folder: Path, tmp_path: Path) -> None:
    """A FIFO or a socket that kanserve waits for holds up the test."""
    wrong = {}
    for kind in sorted(MAKE.keys() - ONLY_ROOT):
        own = folder / str(len(wrong)) / kind.split()[0]
        os.makedirs(own, mode=0o700)
        wrong[kind] = outcome(PLACES[place], kind, own, tmp_path / f"victim of {kind}")
    assert {kind: what for kind, what in wrong.items() if what} == {}


STEPS = ("", "statistics", "statistics/toy", "statistics/toy/1")
INSTEAD: dict[str, Callable[[Path, Path], object]] = {
    SYMLINK: lambda path, victim: path.symlink_to(victim),
    FIFO: lambda path, victim: os.mkfifo(path),
    "file": lambda path, victim: path.write_text("no folder"),
    "dangling link": lambda path, victim: path.symlink_to(victim / "nowhere"),
    "writable by everyone": lambda path, victim: (path.mkdir(), path.chmod(0o777)),
    "sticky": lambda path, victim: (path.mkdir(), path.chmod(0o1777)),
    OWNER: lambda path, victim: (path.mkdir(), os.chown(path, FOREIGN, FOREIGN)),
    GROUP: lambda path, victim: (path.mkdir(), os.chown(path, -1, FOREIGN), path.chmod(0o770)),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_folder_of_the_state_directory(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(store.log, "warning", lambda event, **facts: said.append(facts["reason"]))
    for kind in sorted(INSTEAD.keys() - ONLY_ROOT):
        root = tmp_path / kind.replace(" ", "-")
        victim, path = root / "victim", root / "state" / step
        victim.mkdir(0o700, parents=True)
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        INSTEAD[kind](path, victim)
        item = open_file(root / "state")
        assert (item.own(), item.others(), item.mark()) == (None, [], 0.0), kind
        for _ in range(2):
            item.write(kept(draw(3)))
        assert len(said) == 1, (kind, said)
        assert list(victim.iterdir()) == [], kind
        assert not list((root / "state").rglob("*.tally")), kind
        said.clear()


@full("combination")
def test_a_server_serves_whatever_lies_in_its_state_directory(tmp_path: Path) -> None:
    """One directory has a FIFO, a link to a file of others, nested brackets and an endless file, one per version."""
    state, victim = tmp_path / "state", tmp_path / "victim"
    victim.write_bytes(SECRET)
    for version, make in enumerate((MAKE[FIFO], MAKE[SYMLINK], MAKE[NESTED], MAKE[HUGE]), 1):
        toy_model.write(tmp_path / "models", version=version)
        place = state / "statistics" / "toy" / str(version) / "0.tally"
        place.parent.mkdir(parents=True)
        make(place, victim)
    with serving(tmp_path / "models", state_dir=str(state)) as server, Client(server.address) as client:
        assert client.ready()
        server.infer(draw(8))
        until(lambda: client.statistics("toy").row_count == 8)
        assert server.stop() == 0
        reported = server.logged("statistics_read_failed", "statistics_write_failed", count=4)
    assert [line["level"] for line in reported] == ["warning"] * 4
    assert victim.read_bytes() == SECRET


def test_a_token_goes_to_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path, out = tmp_path / "tokens", tmp_path / "ci.token"
    more = ("--roles", "infer", "--tokens", path, "--output", out)
    done = kanserve("token", "new", "ci", *more)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    token = out.read_text().strip()
    assert token_file.digest(token) in path.read_text()
    again = kanserve("token", "new", "b", *more)
    assert (again.returncode, "error[output-exists]" in again.stderr) == (2, True)
    assert [entry.principal.name for entry in token_file.load(path).tokens] == ["ci"]  # the command made no token
    assert kanserve("token", "new", "b", *more, "--force").returncode == 0
    assert (token_file.digest(out.read_text().strip()) in path.read_text(), out.read_text() != token) == (True, True)
    out.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    out.symlink_to(victim)
    for force in ((), ("--force",)):
        linked = kanserve("token", "new", "c", *more, *force)
        assert linked.returncode == 2, linked.stderr
    assert victim.read_bytes() == SECRET
    assert [entry.principal.name for entry in token_file.load(path).tokens] == ["ci", "b"]
    assert kanserve("token", "new", "c", *more[:-1], tmp_path / "no" / "t").returncode == 2


@pytest.mark.skipif(not ROOT, reason="only root can change the owner of a file")
def test_what_is_written_has_the_owner_and_mode_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for name in "ab":
        token_file.new(path, name, [Role.INFER])
    for item in (tmp_path, path):
        os.chown(item, FOREIGN, FOREIGN)
    path.chmod(0o640)
    token_file.revoke(path, "a")  # root revokes in a directory of that user
    about = path.stat()
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (FOREIGN, FOREIGN, 0o640)
