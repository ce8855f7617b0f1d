"""The token file: valid and invalid contents, error messages, and changes by the command."""

import json
import os
import re
from pathlib import Path

import pytest

from kanserve.auth import token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.permissions import Role
from kanserve.errors import ConfigError
from tests.support import credentials
from tests.support.command_line import document, kanserve
from tests.support.credentials import shown

GOOD = token_file.PREFIX + "0123456789" * 4 + "abc"  # the same in every process of pytest-xdist
HASH = token_file.digest(GOOD)


def test_a_token_is_long_and_its_file_does_not_have_it(tmp_path: Path) -> None:
    created = token_file.new(tmp_path / "t", "ci", [Role.INFER])
    assert re.fullmatch(r"kan_[A-Za-z0-9_-]{43}", created)  # 32 bytes
    assert created not in (tmp_path / "t").read_text()
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    assert token_file.make() != token_file.make()


A = "[[token]]\nname = 'a'\n"
INFER = A + "roles = ['infer']\n"
HASHED = f"sha256 = '{HASH}'\n"
POD = "[[certificate]]\nname = 'a'\nroles = ['infer']\n"
WRONG = {
    "": "has no callers; add a caller: kanserve token new NAME",
    "# nothing\n": "has no callers",
    "\x00": "is not valid TOML",
    "[[token]]\nname = \n": "is not valid TOML: a syntax error (at line 2, column 8)",
    "tokens = 1": "has the unknown key 'tokens'; did you mean 'token'?",
    "token = 1": "token is not a list of tables; write each caller under the heading [[token]]",
    "token = [1]": "token is not a list of tables",
    "[[token]]\nroles = ['infer']\n": "[[token]] number 1 has no valid name",
    "[[token]]\nname = 'a b'\n": "[[token]] number 1 has no valid name",
    A + "role = ['infer']\n": "has the unknown key 'role'; did you mean 'roles'?",
    A + HASHED: "(a) has no roles, expected a list; set roles to a list of read, infer, interpret, admin",
    A + "roles = []\n" + HASHED: "(a) has no roles",
    A + "roles = ['infre']\n" + HASHED: "unknown role 'infre'; did you mean 'infer'?",
    A + "roles = [1]\n" + HASHED: "unknown role '1'",
    INFER: "(a) has no valid sha256",
    INFER + "sha256 = 'abc'\n": "(a) has no valid sha256: expected 64 hexadecimal digits",
    INFER + f"sha256 = '{GOOD}'\n": "not the token",
    credentials.block("a", GOOD, "infer", expires="'soon'"): "has an invalid expires: expected a time with a zone",
    credentials.block("a", GOOD, "infer", expires="2027-01-01T00:00:00"): "expected a time with a zone",
    credentials.block("a", GOOD, "infer", rate="0"): "an invalid rate: expected a number of calls per second above 0",
    credentials.block("a", GOOD, "infer", rate="true"): "has an invalid rate",
    credentials.block("a", GOOD, "infer") + credentials.block("b", GOOD, "read"): "has one token twice",
    credentials.block("a", GOOD, "infer") + credentials.block("a", "x", "read"): "has the name a twice",
    POD: "(a) has no valid san",
    POD + "san = 'x'\nexpires = 1\n": "unknown key 'expires'",
    POD + "san = 's'\n" + POD.replace("'a'", "'b'") + "san = 's'\n": "has one certificate twice",
    "".join(credentials.block(f"a{n}", str(n), "read") for n in range(1001)): "has more than 1000 callers",
}


@pytest.mark.parametrize(("text", "says"), WRONG.items(), ids=WRONG.values())
def test_a_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    credentials.save_tokens(tmp_path / "t", text)
    with pytest.raises(ConfigError) as caught:
        token_file.load(tmp_path / "t")
    shown = f"{caught.value}; {caught.value.hint}"
    assert says in shown
    assert str(tmp_path / "t") in str(caught.value)
    assert "\n" not in shown
    assert GOOD not in shown
    assert caught.value.hint
    assert caught.value.code != "config-error"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for make, says in (
        (lambda: None, "cannot be read: No such file"),
        (lambda: path.write_bytes(b"\xff"), "is not UTF-8 text"),
        (lambda: path.write_bytes(b"#" * 2**20 + b"##"), "has 1048578 bytes, expected at most 1048576"),
        (lambda: path.chmod(0o644), "is open to all users of this machine (mode 644)"),
        (lambda: path.chmod(0o602), "is open to all users"),
        (lambda: (path.unlink(), path.mkdir()), "is not a regular file but a directory"),
        (lambda: (path.rmdir(), os.mkfifo(path, 0o600)), "is not a regular file but a FIFO"),
    ):
        make()
        if path.is_file() and "users" not in says:
            path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            token_file.load(path)
        assert says in str(caught.value)


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    first = kanserve("token", "new", "ci", "--roles", "infer", "--tokens", path)
    assert first.returncode == 0, first.stderr
    path.write_text(f"# ours\n{path.read_text()}# the next is mine\n")
    second = document(
        kanserve("token", "new", "b", "--roles", "read,admin", "--rate", "9", "--json", KANSERVE_TOKENS=str(path))
    )
    kanserve("token", "new", "c", "--roles", "read", "--tokens", path, "--expires", "90d")
    kanserve("token", "new", "d", "--roles", "read", "--tokens", path, "--expires", "2020-01-01")
    requested = Authenticator(token_file.load(path), lambda _: frozenset())
    assert requested.admit(Role.INFER, shown(first.stdout.strip())).name == "ci"
    assert requested.admit(Role.ADMIN, shown(second["token"])).name == "b"
    listed = kanserve("token", "list", "--tokens", path)
    assert all(word in listed.stdout for word in ("ci", "admin, read", "never", "2020-01-01T00:00:00Z", "expired", "9"))
    assert token_file.digest(second["token"]) not in listed.stdout
    callers = document(kanserve("token", "list", "--tokens", path, "--json"))["callers"]
    states = {item["name"]: item["state"] for item in callers}
    assert states == {"ci": "valid", "b": "valid", "c": "valid", "d": "expired"}
    path.chmod(0o640)
    assert kanserve("token", "revoke", "b", "--tokens", path).returncode == 0
    assert [entry.principal.name for entry in token_file.load(path).tokens] == ["ci", "c", "d"]
    assert "# ours" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_last_caller_is_not_revoked(tmp_path: Path) -> None:
    """A server rejects a file without callers and keeps the previous ones, so the token would stay valid."""
    path = tmp_path / "tokens.toml"
    token_file.new(path, "ci", [Role.INFER])
    before = path.read_text()
    done = kanserve("token", "revoke", "ci", "--tokens", path, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "caller-last")
    assert path.read_text() == before
    token_file.revoke(path, "ci", last=True)
    assert token_file.parse(path.read_bytes(), path).tokens == ()


def test_the_command_takes_a_token_from_a_secret_store(tmp_path: Path) -> None:
    path = tmp_path / "t"
    done = kanserve("token", "new", "ci", "--roles", "infer", "--tokens", path, "--stdin", stdin=f"{GOOD}\n".encode())
    assert (done.returncode, done.stdout) == (0, "")
    assert Authenticator(token_file.load(path), lambda _: frozenset()).admit(Role.INFER, shown(GOOD)).name == "ci"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("new", "a", "--roles", "infer"), "missing argument: --tokens FILE"),
        (("new", "--roles", "infer", "--tokens", "t"), "missing argument: NAME"),
        (("new", "a", "--tokens", "t"), "missing argument: --roles"),
        (("new", "a", "--roles", "infer;read", "--tokens", "t"), "expected one or more of read, infer"),
        (("new", "a b", "--roles", "infer", "--tokens", "t"), "has no valid name"),
        (("new", 'a"\nroles=["admin"]\nname="b', "--roles", "infer", "--tokens", "t"), "has no valid name"),
        (("new", "a", "--roles", "infer", "--tokens", "t", "--expires", "soon"), "expected a date such as"),
        (("new", "a", "--roles", "infer", "--tokens", "t", "--rate", "0"), "error[argument-invalid]: --rate"),
        (("new", "a", "--roles", "infer", "--tokens", "no/t"), "cannot be changed: No such file"),
        (("new", "a", "--roles", "infer", "--tokens", "t", "--stdin"), "the token on stdin has 0 characters"),
        (("revoke", "a", "--tokens", "t"), "has no caller 'a'"),
        (("list", "--tokens", "t"), "cannot be read"),
        (("give", "--tokens", "t"), "new|list|revoke"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    supplied = [str(tmp_path / word) if word in ("t", "no/t") else word for word in arguments]
    done = kanserve("token", *supplied)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "t").exists() or not (tmp_path / "t").read_text()


def test_a_name_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t"
    token_file.new(path, "ci", [Role.INFER])
    before = path.read_text()
    assert kanserve("token", "new", "ci", "--roles", "infer", "--tokens", path).returncode == 2
    done = kanserve("token", "revoke", "cii", "--tokens", path)
    assert (done.returncode, "did you mean 'ci'?" in done.stderr) == (2, True)
    assert path.read_text() == before
    path.chmod(0o644)
    assert "open to all users" in kanserve("token", "new", "b", "--roles", "infer", "--tokens", path).stderr
    path.chmod(0o600)
    path.write_text(before.replace('name = "ci"', 'name = """ci"""'))
    assert "error[token-entry-unusual]" in kanserve("token", "revoke", "ci", "--tokens", path).stderr
