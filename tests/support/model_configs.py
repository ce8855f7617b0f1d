"""Toy model that a server loads with a given config.pbtxt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanserve.config.settings import Settings
from kanserve.models.loader import Loader
from kanserve.models.model import Model
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout, pbtxt
from kanserve.runtime import base
from tests.support import toy_model


def load(root: Path, text: str = "", budget: int = 2, **settings: Any) -> Model:
    """The only model of a folder, by default the toy, whose config.pbtxt says this. `budget`: threads."""
    if not root.exists() or not any(root.iterdir()):
        toy_model.write(root)
    if text:
        (root / "toy" / pbtxt.FILE_NAME).write_text(text)
    (candidate,) = layout.scan(root, plain_onnx=False)
    result = Settings(repository=root, **settings)
    return Loader(base.load("ort"), result, budget, Metrics()).load(layout.load(candidate, 2**30))
