"""The graph by the operator of kanserve-kernel beside the portable one: which of them runs is measured at load.

Both are proved by the export, and run the reference rows here. Where the operator's library is not installed, or says
no, the portable graph serves, as it does everywhere else.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from kanexport import manifest as contract
from kanexport.manifest import Manifest
from kanexport.shared import kernel
from kanexport.shared.kernel import KERNEL_FILE
from kanserve.backends import Session
from kanserve.config import Settings
from kanserve.errors import KanserveError
from kanserve.models import measure
from kanserve.nouns import ModelInfo
from kanserve.observe import logs
from kanserve.repository.layout import Bundle
from kanserve.trials import proving

log = logs.get_logger("models")

GAIN = 1.1  # times as fast, below which the portable graph stays
Create = Callable[..., Session]  # of a graph's bytes and, by name, threads and library


@dataclass(frozen=True, slots=True)
class Graphs:
    """What a version can be served with. `create`: a session from a graph; `library`: of the operator, "" without."""

    bundle: Bundle
    create: Create
    library: str

    def sessions(self, *, by_kernel: bool) -> Callable[[int], Session]:
        """Makes sessions whose runs have so many threads."""
        if by_kernel:
            return functools.partial(self._of, KERNEL_FILE, self.library)
        return functools.partial(self._of, contract.MODEL_FILE, "")

    def _of(self, file: str, library: str, threads: int) -> Session:
        return self.create(self.bundle.files[file], threads=threads, library=library)

    def faster(self, info: ModelInfo, portable: Session, threads: int) -> Session | None:
        """A session by the operator, if it is there, right and faster."""
        if not self.library or info.manifest is None:
            return None
        try:
            session = self.sessions(by_kernel=True)(threads)
            proving.check_graph(info.manifest, session)
            proving.prove(info.manifest, session)
        except KanserveError as error:
            log.warning(f"{KERNEL_FILE} is not used", model=info.name, version=info.version, reason=str(error))
            return None
        return session if _gain(info, info.manifest, portable, session) >= GAIN else None


def library_for(bundle: Bundle, settings: Settings) -> str:
    """The path of the operator's library, if this version has a use for it here; else ""."""
    wanted = settings.kernel and settings.device == "cpu" and KERNEL_FILE in bundle.files
    return kernel.library() if wanted else ""


def _gain(info: ModelInfo, manifest: Manifest, portable: Session, other: Session) -> float:
    """How many times as fast the other is: the geometric mean of one row and of a usual batch; 0 where they cannot be
    measured."""
    gains = [measure.times_as_fast(info, portable, other, rows) for rows in (1, min(measure.ROWS, info.max_batch_size))]
    return math.prod(gains) ** (1 / len(gains))
