"""Test certificates: a CA, a server, clients, and invalid certificates."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import trustme

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
LATER = datetime.datetime(2990, 1, 1, tzinfo=datetime.UTC)


def write(folder: Path) -> Path:
    """Write ca and other-ca, NAME.pem and NAME.key for server, caller, `stranger` (of other-ca), expired and early, and
    damaged files."""
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    theirs.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    issued = {
        "server": ours.issue_cert("localhost", "127.0.0.1"),
        "caller": ours.issue_cert("caller.example"),
        "stranger": theirs.issue_cert("stranger.example"),
        "expired": ours.issue_cert("localhost", not_after=LONG_AGO),
        "early": ours.issue_cert("localhost", not_before=LATER),
    }
    for name, pair in issued.items():
        (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    (folder / "text.pem").write_text("no certificate\n")
    (folder / "cut.pem").write_bytes((folder / "server.pem").read_bytes()[:300])
    lock = ["openssl", "pkcs8", "-topk8", "-in", "server.key", "-passout", "pass:word", "-out", "locked.key"]
    subprocess.run(lock, cwd=folder, check=True)
    return folder
