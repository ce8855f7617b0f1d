"""Pods as processes: start, probes, restarts and termination, in the order of a kubelet.

Differences to a kubelet: probes have no jitter, a pod has one container, and no limit of CPU or memory holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.cluster import probes
from tools.cluster.manifest import PodSpec, Probe
from tools.cluster.probes import Verdict
from tools.cluster.sandbox import Image, Sandbox, Storage, create

SHORTEST_TIMEOUT = 1.0  # seconds, as in Kubernetes, also with a scale
BACK_OFF, LONGEST_BACK_OFF = 10.0, 300.0  # seconds before the second restart of a container, which double


@dataclass(frozen=True, slots=True)
class Host:
    """Facts that all pods share.

    folder   folder of volumes and logs
    network  first three numbers of the addresses, such as 127.0.1
    scale    factor of periods and time limits of probes, of delays and back-off; not of the grace period
    report   receives each event as text
    changed  called if the state of a pod changes
    """

    folder: Path
    network: str
    image: Image
    storage: Storage
    scale: float
    report: Callable[[str], None]
    changed: Callable[[], None]


@dataclass(eq=False, slots=True)
class Pod:
    """A pod and its state, as the API server of a cluster has it. `killed`: SIGKILL ended it after the grace period."""

    number: int
    spec: PodSpec
    revision: int
    node: str
    host: Host
    started: bool = False
    ready: bool = False
    ready_since: float = float("inf")
    terminating: bool = False
    lost: bool = False
    gone: bool = False
    killed: bool = False
    restarts: int = 0
    created: float = field(default_factory=time.monotonic)
    process: asyncio.subprocess.Process | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"pod-{self.number}"

    @property
    def address(self) -> str:
        """IP address."""
        return f"{self.host.network}.{self.number}"

    @property
    def log(self) -> Path:
        """Output of all containers of the pod."""
        return self.host.folder / f"{self.name}.log"

    @property
    def stopping(self) -> bool:
        """Whether the container gets its end, by a deletion or a probe."""
        return self._stop.is_set()

    def available(self, seconds: float) -> bool:
        """True if the pod has been ready for this time."""
        return self.ready and time.monotonic() - self.ready_since >= seconds

    def start(self) -> None:
        """Start the kubelet's work for this pod."""
        self._task = asyncio.create_task(self._run())

    def delete(self) -> None:
        """Begin the termination: the endpoint disappears, and the container gets the hook and SIGTERM."""
        if not self.terminating:
            self.terminating = True
            self._say("is deleted")
            self._stop.set()
            self.host.changed()

    def lose(self) -> None:
        """End the process as a dead node does. No kubelet reports it: the pod still counts as ready."""
        self.lost = True
        if self._task is not None:
            self._task.cancel()
        self.signal(signal.SIGKILL)

    def forget(self) -> None:
        """Remove a lost pod, as the controller of nodes does."""
        self.ready = self.started = False
        self.gone = self.terminating = True
        self.host.changed()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the container."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    async def close(self) -> None:
        """End the process and all work at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    def _say(self, text: str) -> None:
        self.host.report(f"{self.name} {text}")

    async def _run(self) -> None:
        folder = self.host.folder / self.name
        sandbox = create(self.spec, self.host.image, self.host.storage, self.address, folder)
        pause = 0.0
        while not self.terminating:
            await self._container(sandbox)
            if not self.terminating:
                self.restarts += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._deleted(), pause * self.host.scale)
                pause = min(max(BACK_OFF, 2 * pause), LONGEST_BACK_OFF)
        self.gone = True
        self._say("is gone")
        self.host.changed()

    async def _deleted(self) -> None:
        while not self.terminating:
            await self._stop.wait()

    async def _container(self, sandbox: Sandbox) -> None:
        """One container, from its start to its end."""
        if not self.terminating:
            self._stop.clear()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *sandbox.command(),
                env=sandbox.env(),
                cwd=os.sep,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        watching = asyncio.create_task(self._probes(sandbox))
        exited, stopped = asyncio.create_task(self.process.wait()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({exited, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await self._terminate(sandbox, self.process)
            self._say(f"ended with {await exited}")
        finally:
            for task in (watching, exited, stopped):
                task.cancel()
            if not self.lost:
                self.started = False
                self._set_ready(False)

    async def _terminate(self, sandbox: Sandbox, process: asyncio.subprocess.Process) -> None:
        """The hook, SIGTERM, and SIGKILL after the grace period, which begins before the hook."""
        try:
            async with asyncio.timeout(self.spec.grace):
                await self._hook(sandbox)
                self.signal(signal.SIGTERM)
                await process.wait()
        except TimeoutError:
            self.killed = True
            self._say(f"gets SIGKILL after {self.spec.grace} s")
            self.signal(signal.SIGKILL)

    async def _hook(self, sandbox: Sandbox) -> None:
        hook = self.spec.pre_stop or {}
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            await probes.execute(sandbox.here(hook["exec"]["command"]), sandbox.env(), self.spec.grace)
        elif hook:
            raise NotImplementedError(f"preStop with {sorted(hook)}, expected exec or sleep")

    async def _probes(self, sandbox: Sandbox) -> None:
        """All probes of one container. Readiness also runs while the container ends."""
        if self.spec.startup is not None:
            await self._watch(sandbox, self.spec.startup, self._started)
            if not self.started:
                return
        self.started = True
        self._set_ready(self.spec.readiness is None)
        async with asyncio.TaskGroup() as group:
            if self.spec.readiness is not None:
                group.create_task(self._watch(sandbox, self.spec.readiness, self._readiness))
            if self.spec.liveness is not None:
                group.create_task(self._watch(sandbox, self.spec.liveness, self._liveness, passing=True))

    async def _watch(
        self, sandbox: Sandbox, probe: Probe, changed: Callable[[Verdict], bool], *, passing: bool = False
    ) -> None:
        timeout = max(SHORTEST_TIMEOUT, probe.timeout * self.host.scale)

        async def run() -> bool:
            if probe.kind == "exec":
                return await probes.execute(sandbox.here(probe.action["command"]), sandbox.env(), timeout)
            address = f"{self.address}:{self.spec.port(probe.action['port'])}"
            kind = probes.grpc_check if probe.kind == "grpc" else probes.http_get
            return await kind(address, probe.action, timeout)

        await probes.watch(run, probe, self.host.scale, changed, passing=passing)

    def _started(self, verdict: Verdict) -> bool:
        self.started = verdict.passing
        if not verdict.passing:
            self._restart("startup")
        return False

    def _readiness(self, verdict: Verdict) -> bool:
        self._set_ready(verdict.passing)
        return True

    def _liveness(self, verdict: Verdict) -> bool:
        if not verdict.passing:
            self._restart("liveness")
        return verdict.passing

    def _restart(self, probe: str) -> None:
        if not self._stop.is_set():
            self._say(f"fails its {probe} probe and restarts")
            self._stop.set()

    def _set_ready(self, ready: bool) -> None:
        if ready is not self.ready:
            self.ready = ready
            self.ready_since = time.monotonic() if ready else float("inf")
            self._say("is ready" if ready else "is not ready")
            self.host.changed()
