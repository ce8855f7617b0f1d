"""Demo load of the compose stack, until SIGTERM: `demo.py URL CA TOKEN-FILE REQUESTS-PER-SECOND`.

The requests go to all ready models, with rows from -1 to 1. Every tenth one also explains a row.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanserve import Client
from kanserve.client.errors import ClientError
from kanserve.client.results import ServedModel

ROWS, EXPLAINED, LISTED = 8, 10, 200  # rows in a request; requests between two explanations, two lists of models


def main(arguments: Sequence[str]) -> int:
    """Send requests. Returns 0 on SIGTERM, 2 for other arguments."""
    if len(arguments) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    url, ca, token, rate = arguments
    with Client(url, ca=ca, token=Path(token).read_text().strip()) as client:
        load(client, 1 / float(rate))
    return 0


def load(client: Client, pause: float) -> None:
    """Send requests with `pause` seconds between them. A failed request is printed, and the load continues."""
    rng = np.random.default_rng(0)
    models: list[ServedModel] = []
    for at in itertools.count():
        try:
            if at % LISTED == 0 or not models:
                models = [client.model(name) for name in ready(client)]
            if models:
                send(client, models[at % len(models)], rng, explain=at % EXPLAINED == 0)
        except ClientError as error:
            print(error, flush=True)
        time.sleep(pause)


def ready(client: Client) -> list[str]:
    """Names of the models that serve."""
    return sorted({entry.name for entry in client.index() if entry.state == "READY"})


def send(client: Client, model: ServedModel, rng: np.random.Generator, *, explain: bool) -> None:
    """One inference, and an explanation of its first row. Raises ClientError."""
    rows = {t.name: rng.uniform(-1, 1, (ROWS, *t.shape[1:])).astype(np.float32) for t in model.inputs}
    client.infer(model, rows)
    if explain and len(rows) == 1:
        client.explain(model.name, next(iter(rows.values()))[:1])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
