"""The web UI over HTTP: routes, headers and sizes. test_access covers permissions."""

import gzip
import re
from importlib import resources
from pathlib import Path

from tests.kanserve.conftest import WAYS
from tests.support import http_client
from tests.support.http_client import ask
from tests.support.server_process import Server

STATIC = Path(str(resources.files("kanserve") / "ui" / "static"))
FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


web = http_client.served(WAYS, "repository")


def test_every_address_is_the_page_with_the_way_back(web: Server) -> None:
    reply = ask(web, "/")
    assert (reply.status, reply.headers["location"]) == (307, "ui/"), "behind any prefix"
    for path, base in {
        "/ui": "./",
        "/ui/": "../",
        "/ui/toy": "../",
        "/ui/toy/edge/0/1/2": "../../../../../",
        "/ui/ops": "../",
        "/ui/static": "../",
        "/ui/static/explain": "../../",  # a model may be called so
        "/ui/a%2Fb/map": "../../../",  # what stands before may have decoded it; the browser then asks for more
    }.items():
        reply = ask(web, path)
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert f'<base href="{base}">' in reply.body.decode(), path


def test_every_file_comes_as_it_is_and_packed(web: Server) -> None:
    for name in FILES:
        expected = (STATIC / name).read_bytes()
        if name == "index.html":
            continue
        plain, packed = (ask(web, f"/ui/static/{name}", accept_encoding=how) for how in ("identity", "gzip"))
        assert plain.body == expected
        assert gzip.decompress(packed.body) == expected
        assert packed.headers["content-encoding"] == "gzip"
        assert plain.headers["etag"] != packed.headers["etag"]


def test_what_is_kept_is_not_sent_again(web: Server) -> None:
    for path in ("/ui/static/app.js", "/ui/toy"):
        first = ask(web, path, accept_encoding="gzip")
        again = ask(web, path, accept_encoding="gzip", if_none_match=f'"other", {first.headers["etag"]}')
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert ask(web, path, accept_encoding="gzip", if_none_match='"other"').status == 200


def test_a_file_that_is_not_there_is_no_page(web: Server) -> None:
    for path in (
        "/ui/static/other.js",
        "/ui/static/views/other.js",
        "/ui/static/..%2f..%2fapp.py",
        "/ui/static/app.py",
    ):
        reply = ask(web, path)
        assert reply.status == 404, path
        assert reply.json["error"].startswith("Not Found: the web UI has no file")


def test_the_page_may_do_nothing_but_show_this_server(web: Server) -> None:
    for path in ("/ui/toy", "/ui/static/app.js"):
        headers = ask(web, path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == rules["base-uri"] == "'self'"
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_nothing_in_the_files_leads_elsewhere() -> None:
    """Nor is there a script or a style in a page's text, which the policy would not let run."""
    for name in FILES:
        text = (STATIC / name).read_text()
        result = set(re.findall(r"\w+://[\w./]*", text)) - {"http://www.w3.org/2000/svg"}
        assert not result, f"{name}: {result}"
        assert not re.search(r"<style|\sstyle=|\son\w+=\"|javascript:|\beval\(|innerHTML", text), name
        assert len(text.splitlines()) <= 500, name


def test_it_is_small() -> None:
    assert sum(len(gzip.compress((STATIC / name).read_bytes())) for name in FILES) < 110_000
