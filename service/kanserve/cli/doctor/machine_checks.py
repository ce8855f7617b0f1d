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

from kanexport.shared import custom_ops
from kanexport.shared.cli.suggest import how_to_install
from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.observability import trace_packages
from kanserve.system import resources
from kanserve.transport import factory

EXTRA = "serve"
ONE_OF = {"onnxruntime": "onnxruntime-gpu"}  # packages that stand for others
TELEMETRY = "ORT_DISABLE_TELEMETRY"
KERNEL = "kanserve-kernel"  # `kernel` reports it
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
TIMEX = 512  # bytes, more than any struct timex has


def installation() -> Iterator[Finding]:
    """Findings about Python and the server's packages, compared with the versions that kanserve requires."""
    metadata = importlib.metadata.metadata("kanserve")
    here = ".".join(map(str, sys.version_info[:3]))
    requirement = SpecifierSet(metadata["Requires-Python"] or "")
    if requirement.contains(here):
        yield ok("Python", f"{here}, kanserve {metadata['Version']}")
    else:
        yield problem("Python", f"Python {here}, expected {requirement}", "install kanserve with another version")
    bad = False
    for required in map(Requirement, importlib.metadata.requires("kanserve") or ()):
        other = required.marker is not None and not required.marker.evaluate({"extra": EXTRA})
        if other or required.name == KERNEL:
            continue
        version = _version(required.name) or _version(ONE_OF.get(required.name, ""))
        if not version:
            bad = True
            yield problem("packages", f"{required.name} is not installed", f"run pip install '{required.name}'")
        elif not required.specifier.contains(version, prereleases=True):
            bad = True
            text = f"{required.name} {version}, expected {required.specifier}"
            yield warning("packages", text, f"run pip install '{required.name}{required.specifier}'")
    if not bad:
        versions = {name: _version(name) for name in ("onnxruntime", "onnxruntime-gpu", "h2corn", "grpcio")}
        installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        yield ok("packages", f"all packages of the server are installed; {installed}")


def kernel(settings: Settings) -> Finding:
    """Finding about the custom operator, which makes models several times faster on a CPU."""
    if not settings.kernel or settings.device != "cpu":
        return ok("custom operator", "not used: kernel = false" if not settings.kernel else "not used on a GPU")
    if custom_ops.library():
        return ok("custom operator", f"{KERNEL} {_version(KERNEL)}")
    text = f"{KERNEL} is not installed for this machine: models use their portable graphs, which are slower"
    return warning("custom operator", text, custom_ops.HOW_TO_INSTALL)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) if name else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def runtime(settings: Settings) -> Iterator[Finding]:
    """Findings about the runtime, the requested device, and telemetry."""
    text = os.environ.get(TELEMETRY)
    try:
        from kanserve.runtime import ort

        ort.check(settings.device)
    except ConfigError as error:
        yield problem("runtime", str(error), error.hint or "set another device, or install its packages")
        return
    except ImportError as error:
        yield problem("runtime", f"onnxruntime cannot be imported: {error}", how_to_install("serve"))
        return
    yield ok("runtime", f"{ort.version()} on {settings.device}")
    if text not in (None, "1"):
        yield warning(
            "telemetry",
            f"{TELEMETRY}={text} in the environment; kanserve uses 1, but other programs send telemetry",
            f"unset the variable, or set {TELEMETRY}=1",
        )
    else:
        yield ok("telemetry", "onnxruntime telemetry is off")


def transport(settings: Settings) -> Finding:
    """Finding about the transport that the settings name."""
    lacking = ", ".join(factory.missing())
    if lacking and (settings.transport == "asgi" or settings.http_port is not None):
        text = f"transport = asgi and http_port need {lacking}, which is not installed"
        install = how_to_install("serve")
        return problem("transport", text, f"{install}; or set transport = grpcio without http_port")
    if lacking and settings.transport == "auto":
        text = f"grpcio, because {lacking} is not installed: no HTTP, and less than half of the throughput"
        return warning("transport", text, how_to_install("serve"))
    return ok("transport", "asgi" if settings.transport == "auto" else settings.transport)


def traces(settings: Settings) -> Iterator[Finding]:
    """Finding about the packages and the exporter of traces; none if the settings do not export traces."""
    if not settings.traces:
        return
    try:
        trace_packages.load().check()
    except ConfigError as error:
        yield problem("traces", str(error), error.hint)
    else:
        yield ok("traces", "the packages of the exporter are installed")


def processors(settings: Settings) -> Finding:
    """Finding about threads and workers, compared with the CPU limit of the cgroup and the scheduler."""
    granted, workers = resources.budget(), settings.workers
    if settings.threads > granted:
        return warning(
            "processors",
            f"threads = {settings.threads}, but the CPU limit is {granted}: inference is throttled",
            "set threads = 0, which uses the CPU limit",
        )
    if workers > granted:
        return warning(
            "processors",
            f"workers = {workers}, but the CPU limit is {granted}: workers share processors",
            "set fewer workers",
        )
    return ok("processors", f"CPU limit {granted}, of {os.cpu_count()} processors")


def files(settings: Settings) -> Finding:
    """Finding about the limit of open files, compared with the connections."""
    listeners = 1 if settings.http_port is None else 2
    needed = settings.max_connections * listeners + resources.RESERVED
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return warning(
            "open files",
            f"limit {hard}, but max_connections = {settings.max_connections} needs {needed}",
            "raise the limit (ulimit -n, LimitNOFILE=), or lower max_connections",
        )
    return ok("open files", f"limit {'none' if hard == resource.RLIM_INFINITY else hard}, {needed} needed")


def clock() -> Finding:
    """Finding about the clock: the state of the kernel, and the dates of the installed files, which are in the past."""
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed - 86400:
        return problem(
            "clock",
            f"{time.ctime()}, before the installation of kanserve",
            "set the clock: certificates depend on it",
        )
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is not None and adjtimex(ctypes.create_string_buffer(TIMEX)) == UNSYNCHRONISED:
        return warning(
            "clock",
            f"{time.ctime()}, not synchronized",
            "run a time service (chrony, systemd-timesyncd) on the host: certificates depend on it",
        )
    return ok("clock", f"{time.ctime()}, synchronized by a time service")
