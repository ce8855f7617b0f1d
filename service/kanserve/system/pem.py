"""Certificates and keys in PEM files, checked before the server binds or the client connects.

The libraries that use them (gRPC core, rustls) report little about a faulty file, and some of it late.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kanexport.contract import atomic, safe_files

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEY = b"PRIVATE KEY-----"
ENCRYPTED = b"ENCRYPTED"
LARGEST = 4 * 2**20  # bytes of a file; all authorities of a system take a quarter of a MiB
EXPIRED, EARLY = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL


class PemError(ValueError):
    """Invalid certificate or key file; the text names the file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Certificate chain and private key: the bytes of both files."""

    chain: bytes
    key: bytes


class Held:
    """Copy of bytes under a path of its own, for libraries that read only files. The contents cannot change until
    `close`."""

    def __init__(self, data: bytes) -> None:
        in_memory = hasattr(os, "memfd_create")  # Linux
        descriptor, name = (os.memfd_create("pem", os.MFD_CLOEXEC), "") if in_memory else tempfile.mkstemp()
        self._file, self._name = atomic.file_over(descriptor, "wb"), name
        self.path = Path(name or f"/proc/self/fd/{descriptor}")
        self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        """The path is nobody's from now on."""
        self._file.close()
        if self._name:
            os.unlink(self._name)


def identity(cert: Path, key: Path) -> Identity:
    """A pair that fits together. Each file is read once: what is checked is what is used. Raises PemError."""
    pair = Identity(_read(cert, CERTIFICATE, "certificate"), _read(key, KEY, "private key"))
    if ENCRYPTED in pair.key:
        raise PemError(f"the private key {key} is encrypted: a key without a password was expected")
    _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair, cert, key)
    return pair


def authorities(path: Path) -> bytes:
    """Certificates to trust. Raises PemError."""
    data = _read(path, CERTIFICATE, "certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_text(data))
    except ssl.SSLError as error:
        raise PemError(f"a certificate in {path} cannot be read: {_reason(error)}") from error
    return data


def served(pair: Identity, cert: Path, key: Path) -> float:
    """Expiry of the certificate of the pair, in seconds since 1970. Raises PemError.

    The standard library reads a certificate's dates only as part of a handshake. This function therefore does one in
    memory, with a client that trusts only this certificate.
    """
    server = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair, cert, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=_text(pair.chain))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller, answerer = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    try:
        for side in (caller, answerer, caller):
            _step(side)
    except ssl.SSLCertVerificationError as error:
        when = {EXPIRED: "has expired", EARLY: "is not valid yet (or the clock is wrong)"}.get(error.verify_code)
        raise PemError(f"the certificate {cert} {when or f'is refused: {error.verify_message}'}") from error
    except ssl.SSLError as error:
        raise PemError(f"no handshake succeeds with the certificate {cert}: {_reason(error)}") from error
    return float(ssl.cert_time_to_seconds(str((caller.getpeercert() or {})["notAfter"])))


def _step(side: ssl.SSLObject) -> None:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return


def _read(path: Path, begin: bytes, what: str) -> bytes:
    try:
        data = safe_files.read(path, LARGEST, links=True)
    except OSError as error:
        raise PemError(f"the {what} {path} cannot be read: {error.strerror}") from error
    if begin not in data:
        raise PemError(f"{path} is no {what} in PEM form: a line with {begin.decode()} was expected")
    return data


def _loaded(context: ssl.SSLContext, pair: Identity, cert: Path, key: Path) -> ssl.SSLContext:
    """`cert` and `key`: what the files are called where something is wrong with them."""
    with contextlib.closing(Held(pair.chain)) as chain, contextlib.closing(Held(pair.key)) as own:
        try:
            context.load_cert_chain(chain.path, own.path, password="")
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                raise PemError(f"the private key {key} does not belong to the certificate {cert}") from error
            raise PemError(f"the certificate {cert} or its key {key} cannot be read: {_reason(error)}") from error
    return context


def _text(data: bytes) -> str:
    """PEM text that OpenSSL accepts, in spite of comments with any bytes."""
    return data.decode("ascii", "ignore")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "damaged").replace("_", " ").lower()
