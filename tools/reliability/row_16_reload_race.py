"""Reload race: version folders whose content changes while the server scans, reads and loads them."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import tempfile
import threading
from pathlib import Path

from kanexport.shared import manifest as manifests
from tests.support import reload_tools
from tests.support.server_process import serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

FACTORS = (1.0, 2.0, 4.0)
POLL = 0.02
INFO = re.compile(r'^kanserve_model_info\{.*digest="([0-9a-f]+)".*\} 1', re.MULTILINE)


def flip(built: dict[float, Path], directory: Path, times: int, seed: int, done: threading.Event) -> None:
    """By renames, as an export does it, or file by file in place, as a copy does it."""
    chance = random.Random(seed)
    for at in range(times):
        source = built[chance.choice(FACTORS)]
        if at % 4:
            reload_tools.swap(source, directory)
        else:
            for path in chance.sample(sorted(source.iterdir()), 4):
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, directory / path.name)
    reload_tools.swap(built[FACTORS[-1]], directory)
    done.set()


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The server looks every 20 ms; what it says that it serves is read over and over."""
    flips, done = scale.of(80, 10**4), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        created = {factor: reload_tools.write(Path(folder, f"made-{factor}"), factor) for factor in FACTORS}
        known = {hashlib.sha256((path / manifests.MODEL_FILE).read_bytes()).hexdigest() for path in created.values()}
        directory = Path(folder, "models", "toy", "1")
        reload_tools.swap(created[1.0], directory)
        allowed = {1: {reload_tools.responses(factor) for factor in FACTORS}}
        settings = {"repository_poll_seconds": POLL, "access_log": "none"}
        with serving(directory.parents[1], **settings) as server, reload_tools.Clients(server, 2, allowed) as asking:
            swapper = threading.Thread(target=flip, args=(created, directory, flips, seed, done), daemon=True)
            swapper.start()
            seen: set[str] = set()
            looks = 0
            while not done.is_set():
                seen.update(INFO.findall(server.metrics()))
                looks += 1
            swapper.join()
            until(lambda: reload_tools.factor(server) == FACTORS[-1])
            until(lambda: reload_tools.index(server)["toy", "1"] == ("READY", ""))
            loads = reload_tools.shown(server, 'kanserve_model_loads_total{model="toy",version="1"}')
            seen.update(INFO.findall(server.metrics()))
    figures = {
        "flips": flips,
        "loads": int(loads),
        "answered": asking.served,
        "lost": len(asking.failed),
        "wrong": asking.wrong,
        "digests that no manifest has": len(seen - known),
        "looks at the digest": looks,
    }
    return Outcome(figures, not asking.failed and not asking.wrong and seen <= known and loads > 1, flips)


ROW = Row(
    number="16",
    title="Reload race",
    method="Another thread swaps the files of a version 10,000 times while the server reads it.",
    goal="Each loaded version is one that a manifest describes.",
    result=(
        "{loads} loads during {flips} swaps: {digests that no manifest has} without a matching manifest, {wrong} "
        "wrong outputs."
    ),
    run=run,
)
test_row = suite(ROW)
