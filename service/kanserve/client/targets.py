"""Addresses of a client: one server, several servers, or a DNS name that resolves to several.

gRPC core balances calls over several servers (round robin) and watches the health service of each. It sends no call to
a server that is not connected or not ready, and for a time none to a server with errors for most of its calls.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from kanserve.client.errors import ArgumentError

PLAIN, SECURE = "grpc://", "grpcs://"
DNS = "dns:"
OTHER = (DNS, "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:", "vsock:")  # schemes of gRPC, each with its own lists
RESOLVE_SECONDS = 5.0  # least time between two look-ups of a DNS name; the default of gRPC is 30 s
# Outlier detection of gRPC (gRFC A50): a server with errors for most of its calls in an interval gets none for the
# ejection time, which grows with each ejection. At most half of the servers, rounded up, have none. All statuses but OK
# are errors.
TURNS: dict[str, dict[str, str]] = {"round_robin": {}}
OUTLIERS = {
    "interval": "5s",
    "baseEjectionTime": "10s",
    "maxEjectionTime": "60s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {"threshold": 50, "minimumHosts": 2, "requestVolume": 10},
    "childPolicy": [TURNS],
}
BALANCED = json.dumps(
    {
        "loadBalancingConfig": [{"outlier_detection_experimental": OUTLIERS}, TURNS],  # the first that gRPC has
        "healthCheckConfig": {"serviceName": ""},
    }
)  # gRPC's service config; "": the health of the whole server
FAMILIES = ((socket.AF_INET, "ipv4:{}", "{}:{}"), (socket.AF_INET6, "ipv6:{}", "[{}]:{}"))


@dataclass(frozen=True, slots=True)
class Target:
    """Parsed address.

    url     text for messages, as it was given
    scheme  PLAIN, SECURE, or "" if it was not given
    places  HOST:PORT of each server, or one target of gRPC such as dns:///NAME:PORT
    """

    url: str
    scheme: str
    places: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """True if calls may go to several servers."""
        return len(self.places) > 1 or self.places[0].startswith(DNS)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host of each place; the path of a Unix socket with its scheme."""
        plain = (place.rpartition("/")[2] if place.startswith(DNS) else place for place in self.places)
        return tuple(
            place if place.startswith("unix") else place.removeprefix(DNS).rpartition(":")[0].strip("[]")
            for place in plain
        )

    @property
    def local(self) -> bool:
        """True if each server is on this machine."""
        return all(_loopback(host) for host in self.hosts)

    def name(self) -> str:
        """The target in gRPC's form. Several host names are resolved now. Raises ArgumentError."""
        return self.places[0] if len(self.places) == 1 else _resolved(self.places)

    def options(self) -> list[tuple[str, int | str]]:
        """Channel options of gRPC for this target."""
        if not self.balanced:
            return []
        # gRPC would send the whole list as :authority, which is not valid there.
        authority = [("grpc.default_authority", self.places[0])] if len(self.places) > 1 else []
        return [
            ("grpc.service_config", BALANCED),
            ("grpc.dns_min_time_between_resolutions_ms", round(RESOLVE_SECONDS * 1000)),
            *authority,
        ]

    def server_name(self, server_name: str) -> str:
        """The name that each certificate must have; "": gRPC takes it from the target. `server_name`: as the user gave
        it. Raises ArgumentError if several hosts have no common name."""
        if server_name or len(self.places) == 1:
            return server_name
        if len(set(self.hosts)) > 1:
            raise ArgumentError(
                f"{self.url} has several hosts, but one connection verifies one name in all certificates",
                code="server-name-missing",
                hint="pass that name as server_name (--server-name), or connect to grpcs://dns:///NAME:PORT",
            )
        return self.hosts[0]


def parse(url: str | Sequence[str]) -> Target:
    """The target of an address, of several separated by commas, or of a list. Raises ArgumentError."""
    text = url if isinstance(url, str) else ",".join(url)
    # Targets of gRPC other than DNS names have commas in themselves.
    words = [text] if text.startswith(OTHER[1:]) else [word.strip() for word in text.split(",")]
    places = tuple(word.removeprefix(SECURE).removeprefix(PLAIN) for word in words)
    wrong = [place for place in places if not place or place.startswith(OTHER)]
    if len(places) > 1 and wrong:
        raise ArgumentError(
            f"{text} is a list with the address '{wrong[0]}', expected HOST:PORT",
            code="address-invalid",
            hint="pass HOST:PORT,HOST:PORT, or only dns:///NAME:PORT",
        )
    schemes = {scheme for word in words for scheme in (PLAIN, SECURE) if word.startswith(scheme)}
    if len(schemes) > 1:
        raise ArgumentError(
            f"{text} has addresses with and without TLS, expected one kind",
            code="address-invalid",
            hint=f"begin all addresses with {SECURE}, or none",
        )
    return Target(text, next(iter(schemes), ""), places)


def each(url: str) -> dict[str, str]:
    """The address of each server of an address, with the name in its certificate ("": its host). A DNS name is resolved
    now, to addresses of one IP version. Raises ArgumentError."""
    target = parse(url)
    if not target.places[0].startswith(DNS):
        return dict.fromkeys((target.scheme + place for place in target.places) if target.balanced else [url], "")
    authority, _, place = target.places[0].removeprefix(DNS).rpartition("/")
    if authority.strip("/"):
        raise ArgumentError(
            f"{url} names a DNS server, expected dns:///NAME:PORT",
            code="address-invalid",
            hint="pass dns:///NAME:PORT, which the resolver of this machine resolves",
        )
    _, _, numbers = _resolved([place]).partition(":")
    return {target.scheme + number: target.hosts[0] for number in numbers.split(",")}


def require_single(url: str, purpose: str) -> None:
    """Raises ArgumentError if an address is not that of one server. `purpose`: subject of the message."""
    if parse(url).balanced:
        raise ArgumentError(
            f"{purpose} needs one server, but {url} is the address of several",
            code="one-server-required",
            hint="pass HOST:PORT of one server; repeat this for each server",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("unix:")


def _resolved(places: Sequence[str]) -> str:
    """The addresses of all places, of one IP version, as a target of gRPC."""
    addresses = []  # of each place: family, IP address and port
    for place in places:
        host, _, port = place.rpartition(":")
        if not (host and port.isdecimal() and int(port) < 2**16):
            raise ArgumentError(
                f"the address '{place}' has no host or no port, expected HOST:PORT",
                code="address-invalid",
                hint="pass HOST:PORT,HOST:PORT",
            )
        try:
            entries = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ArgumentError(
                f"the host name of '{place}' does not resolve: {error}",
                code="address-not-resolved",
                hint="correct the name, or pass the IP address",
            ) from error
        addresses.append([(int(family), str(address[0]), int(address[1])) for family, _, _, _, address in entries])
    for family, target, form in FAMILIES:
        if all(any(kind == family for kind, _, _ in each) for each in addresses):
            numbers = [form.format(ip, port) for each in addresses for kind, ip, port in each if kind == family]
            return target.format(",".join(dict.fromkeys(numbers)))
    raise ArgumentError(
        f"{','.join(places)} has hosts with IPv4 only and hosts with IPv6 only, expected one version",
        code="address-invalid",
        hint="pass addresses of one IP version",
    )
