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

from kanexport.shared import atomic, safe_files
from kanexport.shared.cli.console import CodedError

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEY = b"PRIVATE KEY-----"
ENCRYPTED = b"ENCRYPTED"
LARGEST = 4 * 2**20  # bytes of a file; all authorities of a system take 0.25 MiB
COPY_AGAIN = "copy the file again"
EXPIRED, EARLY = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL


class PemError(CodedError):
    """Invalid certificate or key file; the text names the file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Certificate chain and private key: the bytes of both files."""

    chain: bytes
    key: bytes


class Held:
    """Copy of bytes under a separate path, for libraries that read only files. The contents cannot change until
    `close`."""

    def __init__(self, data: bytes) -> None:
        in_memory = hasattr(os, "memfd_create")  # Linux
        descriptor, name = (os.memfd_create("pem", os.MFD_CLOEXEC), "") if in_memory else tempfile.mkstemp()
        self._file, self._name = atomic.file_over(descriptor, "wb"), name
        self.path = Path(name or f"/proc/self/fd/{descriptor}")
        self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        """Remove the copy; the path is invalid from now on."""
        self._file.close()
        if self._name:
            os.unlink(self._name)


def identity(cert: Path, key: Path) -> Identity:
    """A certificate and its private key. Each file is read once, so that the checked bytes are those in use. Raises
    PemError."""
    pair = Identity(_read(cert, CERTIFICATE, "certificate"), _read(key, KEY, "private key"))
    if ENCRYPTED in pair.key:
        raise PemError(
            f"the private key {key} is encrypted, expected a key without a password",
            code="private-key-encrypted",
            hint="decrypt it with `openssl pkey -in KEY -out PLAIN`, and use the new file",
        )
    _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair, cert, key)
    return pair


def authorities(path: Path) -> bytes:
    """Certificates to trust. Raises PemError."""
    data = _read(path, CERTIFICATE, "certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_text(data))
    except ssl.SSLError as error:
        raise PemError(
            f"a certificate in {path} cannot be read: {_reason(error)}", code="certificate-damaged", hint=COPY_AGAIN
        ) from error
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
    caller, responder = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    try:
        for side in (caller, responder, caller):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == EXPIRED:
            raise PemError(
                f"the certificate {cert} has expired", code="certificate-expired", hint="renew the certificate"
            ) from error
        if error.verify_code == EARLY:
            raise PemError(
                f"the certificate {cert} is not valid yet",
                code="certificate-not-valid-yet",
                hint="correct the clock of this machine, or use another certificate",
            ) from error
        raise PemError(
            f"the certificate {cert} is rejected: {error.verify_message}",
            code="certificate-rejected",
            hint="use a certificate for TLS servers",
        ) from error
    except ssl.SSLError as error:
        raise PemError(
            f"the TLS handshake with the certificate {cert} fails: {_reason(error)}",
            code="certificate-rejected",
            hint="use a certificate for TLS servers",
        ) from error
    return float(ssl.cert_time_to_seconds(str((caller.getpeercert() or {})["notAfter"])))


def _read(path: Path, begin: bytes, what: str) -> bytes:
    try:
        data = safe_files.read(path, LARGEST, links=True)
    except OSError as error:
        raise PemError(
            f"the {what} {path} cannot be read: {error.strerror}",
            code="pem-not-readable",
            hint="correct the path, and give this user read permission for the file",
        ) from error
    if begin not in data:
        raise PemError(
            f"{path} is not a {what} in PEM form, expected a line with {begin.decode()}",
            code="pem-invalid",
            hint="use a PEM file; `openssl x509 -inform der -in FILE` converts a DER certificate",
        )
    return data


def _loaded(context: ssl.SSLContext, pair: Identity, cert: Path, key: Path) -> ssl.SSLContext:
    """The context with the pair. `cert` and `key`: paths for the text of an error. Raises PemError."""
    with contextlib.closing(Held(pair.chain)) as chain, contextlib.closing(Held(pair.key)) as own:
        try:
            context.load_cert_chain(chain.path, own.path, password="")
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                raise PemError(
                    f"the private key {key} does not belong to the certificate {cert}",
                    code="private-key-differs",
                    hint="use the key with which the certificate was requested",
                ) from error
            raise PemError(
                f"the certificate {cert} or its key {key} cannot be read: {_reason(error)}",
                code="certificate-damaged",
                hint=COPY_AGAIN,
            ) from error
    return context


def _text(data: bytes) -> str:
    """PEM text that OpenSSL accepts, in spite of comments with any bytes."""
    return data.decode("ascii", "ignore")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "damaged").replace("_", " ").lower()
