"""The names in a certificate: its SANs. The certificate itself was verified by the door that it came through."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import MutableMapping
from typing import Any

MOST = 1024  # certificates whose names are remembered


def missing() -> str:
    """What is to be installed before certificates can be read, or ""."""
    return "" if importlib.util.find_spec("cryptography") else "cryptography"


def presented(scope: MutableMapping[str, Any]) -> str:
    """The certificate that came with an ASGI request, verified by the server, as PEM; or "". Source: the ASGI
    specification, "TLS Extension"."""
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls else ()
    return str(chain[0]) if chain else ""


@functools.lru_cache(MOST)
def of(certificate: str | bytes) -> frozenset[str]:
    """The URIs, DNS names, addresses and mail addresses of a PEM certificate; nothing for one that cannot be read."""
    from cryptography import x509

    data = certificate.encode() if isinstance(certificate, str) else certificate
    try:
        found = x509.load_pem_x509_certificate(data).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return frozenset()
    names = found.value
    uris = {uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if ":" in uri}
    others = {*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.RFC822Name)}
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    # Each kind looks like itself: a DNS name with a colon in it must not pass for a URI.
    return frozenset(uris | addresses | {name for name in others if ":" not in name})
