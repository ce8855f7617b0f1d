"""Tests of `client/targets.py`."""

import pytest

from kanserve import Client
from kanserve.client import targets
from kanserve.client.errors import ArgumentError


def test_an_address_is_one_server_or_several() -> None:
    for url, name, secure, balanced in (
        ("a:1", "a:1", False, False),
        ("grpcs://a:1", "a:1", True, False),
        ("[::1]:1", "[::1]:1", False, False),
        ("unix:/a,b", "unix:/a,b", False, False),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1", False, False),
        ("dns:///a:1", "dns:///a:1", False, True),
        ("grpcs://dns:///a:1", "dns:///a:1", True, True),
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2", False, True),
        ("grpcs://[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", True, True),
        (["grpcs://127.0.0.1:1", "grpcs://127.0.0.1:2"], "ipv4:127.0.0.1:1,127.0.0.1:2", True, True),
    ):
        target = targets.parse(url)
        assert (target.name(), target.scheme == targets.SECURE, target.balanced) == (name, secure, balanced)
        assert bool(target.options()) == balanced


def test_each_server_of_an_address() -> None:
    for url, servers in (
        ("a:1", {"a:1": ""}),
        ("unix:/a,b", {"unix:/a,b": ""}),
        ("grpcs://a:1,b:2", {"grpcs://a:1": "", "grpcs://b:2": ""}),
        ("dns:///127.0.0.1:1", {"127.0.0.1:1": "127.0.0.1"}),
        ("grpcs://dns:127.0.0.1:1", {"grpcs://127.0.0.1:1": "127.0.0.1"}),
    ):
        assert targets.each(url) == servers
    for url, code in (
        ("dns://8.8.8.8/a:1", "address-invalid"),
        ("dns:///a", "address-invalid"),
        ("dns:///no-such-host.invalid:1", "address-not-resolved"),
    ):
        with pytest.raises(ArgumentError) as caught:
            targets.each(url)
        assert caught.value.code == code


def test_an_address_that_is_none_is_an_error() -> None:
    for url, code in (
        ("a:1,grpcs://b:1,grpc://c:1", "address-invalid"),
        ("a:1,,b:1", "address-invalid"),
        ("dns:///a:1,b:1", "address-invalid"),
        ("127.0.0.1,127.0.0.2:1", "address-invalid"),
        ("127.0.0.1:1,[::1]:1", "address-invalid"),
        ("no-such-host.invalid:1,127.0.0.1:1", "address-not-resolved"),
        ("grpcs://127.0.0.1:1,127.0.0.2:1", "server-name-missing"),
        ("grpc://127.0.0.1:1,10.0.0.2:1", "token-without-tls"),
    ):
        with pytest.raises(ArgumentError) as caught:
            Client(url, token="t" * 47 if code == "token-without-tls" else "")
        assert caught.value.code == code


def test_all_servers_have_to_be_on_this_machine() -> None:
    local = {
        "localhost:1,127.0.0.1:1": True,
        "127.0.0.1:1,10.0.0.1:1": False,
        "dns:///localhost:1": True,
        "dns://127.0.0.1:53/example:1": False,
        "unix:/socket": True,
    }
    assert {url: targets.parse(url).local for url in local} == local
