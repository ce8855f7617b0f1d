"""Hosts: loopback addresses, and the check of requests that a page of another site may have caused.

A browser sends requests of any page to any server (CSRF). If the name of the page then resolves to this server (DNS
rebinding), the page also reads the responses. Programs other than browsers send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Mapping

from kanserve.errors import BadRequest

ANY = "*"
READING = ("GET", "HEAD")
OWN_SITE = ("same-origin", "none")  # "none": the user typed the address, or opened a bookmark
# Each browser sends at least one of these with each request, and a page can remove none of them.
BROWSER = ("origin", "accept-language")


# NOTE: the metrics address needs no permission: it is read-only, holds no tensor
# contents, and exists to be scraped from another machine.
def is_loopback(host: str) -> bool:
    """True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Sites:
    """Check of the sites that HTTP requests to one port come from.

    address  address of the port
    allowed  the setting `allowed_hosts`
    pages    whether to reject requests of pages of other sites
    names    whether to reject unknown names in `Host`, which TLS and tokens make unnecessary
    """

    def __init__(self, address: str, allowed: str, *, pages: bool = True, names: bool = True) -> None:
        own = socket.gethostname().lower()
        self._allowed = frozenset(filter(None, allowed.lower().split(",")))
        self._names = self._allowed | {own, f"{own}.local", address.lower()}
        self._check_pages = pages
        self._check_names = names and ANY not in self._allowed

    def fault(self, method: str, headers: Mapping[str, str]) -> BadRequest | None:
        """Error of a request to reject, or None. `headers`: names in lower case."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if self._check_pages and self._from_elsewhere(method, host, origin, headers):
            return BadRequest(
                f"a page of another site sent this request: its origin is {origin[:80]!r}, the server is {host[:80]!r}",
                code="cross-site-request",
                hint="open the page of this server, or add the host of the other page to allowed_hosts on the server",
            )
        if self._check_names and not self._is_known(_host(host), headers):
            return BadRequest(
                f"the header Host has the name {host[:80]!r}, expected an IP address or a name of this server",
                code="host-not-allowed",
                hint="connect to an IP address or to localhost, or add the name to allowed_hosts on the server",
            )
        return None

    def _from_elsewhere(self, method: str, host: str, origin: str, headers: Mapping[str, str]) -> bool:
        """Whether a page of another site sent the request. A link on such a page may open a page of this server."""
        if _host(origin.partition("://")[2]) in self._allowed:
            return False
        if site := headers.get("sec-fetch-site", ""):
            return site not in OWN_SITE and not (method in READING and headers.get("sec-fetch-mode") == "navigate")
        return bool(origin) and origin.partition("://")[2].lower() != host.lower()

    def _is_known(self, host: str, headers: Mapping[str, str]) -> bool:
        """Whether no owner of a public domain can have made `host` the name of this server, or no browser sent it.

        Public DNS has no names without a dot. Browsers send `Sec-Fetch-Site` only over TLS and to loopback names, and a
        page whose name has moved here has neither. Programs use any name, such as that of a reverse proxy."""
        known = "." not in host or host.endswith(".localhost") or host in self._names
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            known = True
        return known or "sec-fetch-site" in headers or not any(name in headers for name in BROWSER)


def _host(place: str) -> str:
    """The host of HOST:PORT."""
    name = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
    return name.lower().rstrip(".")
