"""Creator of the credentials of the compose stack: `init.py SERVER CLIENT NAME...`.

SERVER   folder for tls.crt, tls.key and tokens.toml, which only the server mounts
CLIENT   folder for ca.crt and app.token, which clients mount
NAME...  DNS names and IP addresses in the certificate

Credentials that exist stay. The program replaces a certificate that expires within 30 days or has other names.
"""

from __future__ import annotations

import datetime
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kanexport.shared import safe_files
from kanserve.auth import token_file
from kanserve.auth.permissions import Role

VALID, RENEWED = datetime.timedelta(days=397), datetime.timedelta(days=30)
# Owner and group: the group is that of the server, and only root can write.
READABLE = 0o640


def main(arguments: Sequence[str]) -> int:
    """Create what is missing. Returns 0, or 2 for missing arguments."""
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    server, client, names = Path(arguments[0]), Path(arguments[1]), arguments[2:]
    if not _usable(server / "tls.crt", server / "tls.key", client / "ca.crt", names=names):
        certificate, key = make_certificate(names)
        _write(server / "tls.key", key)
        _write(server / "tls.crt", certificate)
        _write(client / "ca.crt", certificate)
        print(f"created a certificate for {', '.join(names)}")
    tokens, token = server / "tokens.toml", client / "app.token"
    if not (tokens.exists() and token.exists()):
        tokens.unlink(missing_ok=True)
        value = token_file.new(tokens, "app", [Role.INFER, Role.INTERPRET])
        tokens.chmod(READABLE)
        _write(token, f"{value}\n".encode())
        print("created the token app with the roles infer and interpret")
    return 0


def make_certificate(names: Sequence[str]) -> tuple[bytes, bytes]:
    """A certificate that signs itself, and its key without a password, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(called, called, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
    )
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    for extension, critical in (
        (x509.SubjectAlternativeName([_general(name) for name in names]), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usable(certificate: Path, *others: Path, names: Sequence[str]) -> bool:
    """Whether the files exist, and the certificate has these names and is valid for a while."""
    if not all(path.exists() for path in (certificate, *others)):
        return False
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    soon = datetime.datetime.now(datetime.UTC) + RENEWED
    return found.not_valid_after_utc > soon and list(named) == [_general(name) for name in names]


def _write(path: Path, data: bytes) -> None:
    safe_files.Folder(path.parent, shared=True).write(path.name, data, mode=READABLE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
