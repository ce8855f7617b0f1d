"""The observatory page's addresses, as commands tell and open them."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.parse
import webbrowser

from kanexport.shared.output import note, print_json
from kanexport.shared.voice import Exit
from kanserve.console.common import CommandError

SECURE = "grpcs://"
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # one of them, where a browser has a place on Linux


def address(url: str, *path: str, secure: bool = False, version: str = "") -> str:
    """Of a server's port that speaks gRPC and HTTP, such as 127.0.0.1:8001 or grpcs://kan.example:443; `path`: what
    follows /ui/."""
    scheme = "https" if secure or url.startswith(SECURE) else "http"
    place = "/".join(urllib.parse.quote(part, safe="") for part in path)
    query = f"?version={urllib.parse.quote(version, safe='')}" if version else ""
    return f"{scheme}://{url.removeprefix(SECURE)}/ui/{place}{query}"


def check(where: str, seconds: float) -> None:
    """Raises CommandError where no page is at an address without TLS: a port may speak gRPC alone."""
    parts = urllib.parse.urlsplit(where)
    if parts.scheme != "http":
        return
    connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.request("GET", "/ui/")
        answer = connection.getresponse()
        found = answer.getheader("content-type", "").startswith("text/html") and answer.status == http.client.OK
    except (OSError, http.client.HTTPException):
        found = False
    finally:
        connection.close()
    if not found:
        raise CommandError(
            f"there is no page at {where}",
            hint="the asgi door has HTTP on gRPC's port; another door takes --http-port PORT, and this command --page",
            exit_code=Exit.FAILED,
        )


def show(where: str, *, browser: bool, as_json: bool) -> None:
    """Prints the address, and opens it where there is a browser."""
    opened = browser and _has_screen() and webbrowser.open(where)
    if as_json:
        print_json({"address": where, "opened": opened})
    else:
        print(where, flush=True)
        if browser and not opened:
            note("there is no browser here; open the address in one")


def _has_screen() -> bool:
    """Elsewhere `webbrowser` may take the terminal for a browser of text."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in SCREENS)
