"""Tests of `config/hosts.py`."""

import socket

from kanserve.config.hosts import Sites

EVIL = "evil.example:8001"
OWN = {"host": "127.0.0.1:8001", "origin": "http://127.0.0.1:8001"}
BROWSER = {"accept-language": "en"}
PROXIED = {"host": "models.example", "origin": "https://models.example", "sec-fetch-site": "same-origin"}
# Address, allowed_hosts, method, headers, and the error code.
CASES: list[tuple[str, str, str, dict[str, str], str]] = [
    *(("127.0.0.1", "", method, OWN, "") for method in ("GET", "POST")),
    *(
        ("127.0.0.1", "", "GET", {"host": host}, "")
        for host in ("127.0.0.1:8001", "[::1]:8001", "localhost:8001", "LOCALHOST.", "10.1.2.3:80", "kanserve:8001", "")
    ),
    ("127.0.0.1", "", "GET", {"host": f"{socket.gethostname()}.local:8001"}, ""),
    ("127.0.0.1", "", "GET", {"host": "ui.localhost:8001"}, ""),
    # Pages of other sites.
    ("127.0.0.1", "", "POST", OWN | {"origin": "http://evil.example"}, "cross-site-request"),
    ("127.0.0.1", "", "POST", OWN | {"origin": "null"}, "cross-site-request"),
    ("127.0.0.1", "", "POST", OWN | {"origin": "http://127.0.0.1:3000"}, "cross-site-request"),
    ("127.0.0.1", "", "GET", {"host": "127.0.0.1:8001", "sec-fetch-site": "cross-site"}, "cross-site-request"),
    ("127.0.0.1", "", "POST", OWN | {"sec-fetch-site": "same-site"}, "cross-site-request"),
    ("127.0.0.1", "evil.example.org", "POST", OWN | {"origin": "http://evil.example"}, "cross-site-request"),
    ("127.0.0.1", "*", "POST", OWN | {"origin": "http://evil.example"}, "cross-site-request"),
    ("127.0.0.1", "app.example", "POST", OWN | {"origin": "https://app.example:8443"}, ""),
    *(
        ("127.0.0.1", "", method, {"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": mode}, code)
        for method, mode, code in (
            ("GET", "navigate", ""),
            ("POST", "navigate", "cross-site-request"),
            ("GET", "no-cors", "cross-site-request"),
        )
    ),
    # Names that moved to this server.
    ("127.0.0.1", "", "GET", {"host": EVIL} | BROWSER, "host-not-allowed"),
    ("127.0.0.1", "", "POST", {"host": EVIL, "origin": f"http://{EVIL}"}, "host-not-allowed"),
    ("127.0.0.1", "", "GET", {"host": "127.0.0.1.evil.example"} | BROWSER, "host-not-allowed"),
    ("127.0.0.1", "models.example", "GET", {"host": "models.example:8001"}, ""),
    ("127.0.0.1", "*", "GET", {"host": EVIL}, ""),
    ("0.0.0.0", "", "GET", {"host": EVIL} | BROWSER, "host-not-allowed"),
    ("0.0.0.0", "", "POST", {"host": EVIL, "origin": f"http://{EVIL}"}, "host-not-allowed"),
    # Ingress or reverse proxy with TLS in front, and programs by any name in a cluster.
    *((address, "", "POST", PROXIED | BROWSER, "") for address in ("127.0.0.1", "0.0.0.0")),
    *(
        (address, "", "POST", {"host": "toy-predictor.default.svc.cluster.local", "user-agent": "python"}, "")
        for address in ("127.0.0.1", "0.0.0.0")
    ),
]


def test_requests_that_a_page_of_another_site_may_have_caused() -> None:
    wrong = []
    for address, allowed, method, headers, expected in CASES:
        fault = Sites(address, allowed).fault(method, headers)
        if (fault.code if fault else "") != expected:
            wrong.append((address, allowed, method, headers, expected, fault))
    assert wrong == []
    assert Sites("127.0.0.1", "", pages=False, names=False).fault("POST", {"host": EVIL, "origin": "null"}) is None
