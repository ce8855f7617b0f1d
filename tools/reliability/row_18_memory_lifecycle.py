"""Memory by version: memory use does not grow with the number of loaded and unloaded versions."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from tests.support import reload_tools
from tests.support.server_process import serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

PAD = 2**20  # bytes of each, so that one that stays is seen
LIMIT = 5.0  # MiB


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Each new version makes the one before leave; the old one's files go with it."""
    times, settled = scale.of(6, 500), scale.of(3, 50)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        reload_tools.write(repository / "toy" / "1", pad=PAD)
        with serving(repository, repository_poll_seconds=0.02, version_policy="latest:1", access_log="none") as server:
            before = after = 0.0
            for version in range(2, times + 2):
                created = reload_tools.write(Path(folder, "made", str(version)), version=version, pad=PAD)
                reload_tools.swap(created, repository / "toy" / str(version))
                for path in (created, repository / "toy" / str(version - 1)):
                    shutil.rmtree(path)
                until(lambda version=version: list(reload_tools.index(server)) == [("toy", str(version))])
                assert reload_tools.factor(server) == 1
                if version == settled:
                    before = reload_tools.memory(server)
                scale.tell(version - 1, times)
            with contextlib.suppress(AssertionError):  # the last version that left may take a moment to free its memory
                until(lambda: reload_tools.memory(server) - before < LIMIT)
            after = reload_tools.memory(server)
            text = server.metrics()
    figures = {
        "loaded and unloaded": times,
        "MiB after the first": round(before, 1),
        "MiB more at the end": round(after - before, 2),
        "series of versions that left": text.count('version="2"'),
    }
    return Outcome(figures, after - before < LIMIT and not text.count('version="2"'), times)


ROW = Row(
    number="18",
    title="Memory after loads and unloads",
    method="A model is loaded and unloaded 500 times.",
    goal="Memory grows by less than 5 MiB after the first 50.",
    result="{MiB more at the end} MiB more.",
    run=run,
)
test_row = suite(ROW)
