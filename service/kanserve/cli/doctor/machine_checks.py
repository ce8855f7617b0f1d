"""Checks of the machine: Python and packages, the runtime and its device, threads, open files and the clock."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.runtime import base
from kanserve.system import resources
from kanserve.transport import factory

EXTRA = "serve"
ONE_OF = {"onnxruntime": "onnxruntime-gpu"}  # packages that stand for others
TELEMETRY = "ORT_DISABLE_TELEMETRY"
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
TIMEX = 512  # bytes, more than any struct timex has


def installation() -> Iterator[Finding]:
    """Python, and the packages that the server needs, against what kanserve was made for."""
    metadata = importlib.metadata.metadata("kanserve")
    here = ".".join(map(str, sys.version_info[:3]))
    requirement = SpecifierSet(metadata["Requires-Python"] or "")
    if requirement.contains(here):
        yield ok("Python", f"{here}, kanserve {metadata['Version']}")
    else:
        yield problem("Python", f"{here}; kanserve takes {requirement}", "install kanserve with another Python")
    bad = list(_unfit())
    yield from bad
    if not bad:
        yield ok("packages", f"all that the server needs is there; {', '.join(_versions())}")


def _unfit() -> Iterator[Finding]:
    for requirement in _needed():
        version = _version(requirement.name) or _version(ONE_OF.get(requirement.name, ""))
        if not version:
            yield problem("packages", f"{requirement.name} is not installed", f"pip install '{requirement.name}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version}; kanserve was made for {requirement.specifier}"
            yield warning("packages", text, f"pip install '{requirement.name}{requirement.specifier}'")


def _needed() -> Iterator[Requirement]:
    """Requirements of the client and of the server."""
    for text in importlib.metadata.requires("kanserve") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": EXTRA}):
            yield requirement


def _versions() -> Iterator[str]:
    for name in ("onnxruntime", "onnxruntime-gpu", "h2corn", "grpcio"):
        if version := _version(name):
            yield f"{name} {version}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) if name else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def runtime(settings: Settings) -> Iterator[Finding]:
    """The backend, the device that was asked for, and that nothing is told to anybody."""
    text = os.environ.get(TELEMETRY)
    try:
        backend = base.load(settings.backend)
        backend.check(settings.device)
    except ConfigError as error:
        yield problem("runtime", str(error), "take another device, or install what it needs")
        return
    except ImportError as error:
        yield problem("runtime", f"{settings.backend} cannot be imported: {error}", "install kanserve with [serve]")
        return
    yield ok("runtime", f"{backend.version()} runs on {settings.device}")
    if text not in (None, "1"):
        yield warning(
            "telemetry",
            f"{TELEMETRY}={text} in the environment: kanserve sets it to 1 for itself, other programs report",
            f"unset it, or {TELEMETRY}=1",
        )
    else:
        yield ok("telemetry", "onnxruntime's is off")


def transport(settings: Settings) -> Finding:
    """Finding about the transport that the settings name."""
    lacking = ", ".join(factory.missing())
    if lacking and (settings.transport == "asgi" or settings.http_port is not None):
        text = f"{lacking} is not installed, which transport = asgi and http_port need"
        return problem("transport", text, "pip install 'kanserve[serve]', or transport = grpcio without http_port")
    if lacking and settings.transport == "auto":
        text = f"grpcio, since {lacking} is not installed: no HTTP, and less than half the rate"
        return warning("transport", text, "pip install 'kanserve[serve]'")
    return ok("transport", "asgi" if settings.transport == "auto" else settings.transport)


def processors(settings: Settings) -> Finding:
    """Threads and workers against what the cgroup and the scheduler grant."""
    granted, workers = resources.budget(), settings.workers
    if settings.threads > granted:
        return warning(
            "processors",
            f"threads = {settings.threads}, and {granted} are granted: runs are throttled",
            "threads = 0 takes what is granted",
        )
    if workers > granted:
        return warning(
            "processors", f"workers = {workers}, and {granted} threads are granted: they take turns", "take fewer"
        )
    return ok("processors", f"{granted} threads are granted, of {os.cpu_count()} processors")


def files(settings: Settings) -> Finding:
    """Open files against connections."""
    listeners = 1 if settings.http_port is None else 2
    needed = settings.max_connections * listeners + resources.RESERVED
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return warning(
            "open files",
            f"{hard} are allowed, {needed} are needed for max_connections = {settings.max_connections}",
            "allow the process more (ulimit -n, LimitNOFILE=), or fewer connections",
        )
    return ok("open files", f"{'any number' if hard == resource.RLIM_INFINITY else hard} allowed, {needed} needed")


def clock() -> Finding:
    """Against the kernel's own judgement, and against the files of this installation, which cannot be of tomorrow."""
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed - 86400:
        return problem(
            "clock",
            f"it says {time.ctime()}, before this kanserve was installed",
            "set it: certificates are judged by it",
        )
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is not None and adjtimex(ctypes.create_string_buffer(TIMEX)) == UNSYNCHRONISED:
        return warning(
            "clock",
            f"it says {time.ctime()}, and nothing keeps it right",
            "run a time service (chrony, systemd-timesyncd) on the machine: certificates are judged by it",
        )
    return ok("clock", f"{time.ctime()}, kept right by a time service")
