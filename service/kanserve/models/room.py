"""How large a request may be: as large as a full batch of any model, so that what a model takes can be sent."""

from __future__ import annotations

from collections.abc import Iterator

from kanexport.manifest import Manifest, ManifestError
from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError
from kanserve.models.serving import batch_size
from kanserve.nouns import HELD, TensorInfo
from kanserve.observe import logs
from kanserve.repository import layout

MOST = 32 * 2**20  # bytes; a larger request is for an operator to allow
AROUND = 2**16  # bytes of a message beside its tensors

log = logs.get_logger("models")


def made(settings: Settings) -> Settings:
    """The settings with `max_request_bytes` as large as a full batch of the largest model, up to `MOST`, unless an
    operator has set it. Reads the manifests; graphs without one do not say how large they are."""
    if "max_request_bytes" in settings.model_fields_set:
        return settings
    wanted = min(MOST, max(_batches(settings), default=0))
    if wanted <= settings.max_request_bytes:
        return settings
    log.info("requests may be as large as a full batch", max_request_bytes=wanted)
    return settings.model_copy(update={"max_request_bytes": wanted})


def _batches(settings: Settings) -> Iterator[int]:
    """Bytes of a full batch of each version. What cannot be read is left to its load, which says why."""
    try:
        candidates = layout.scan(settings.repository, plain_onnx=False, hard_links=settings.hard_links)
    except ConfigError:
        return
    for candidate in candidates:
        try:
            manifest = layout.manifest(candidate)
            rows = batch_size(layout.config(candidate), manifest.max_batch_size, manifest=True)
        except (OSError, LoadError, ManifestError):
            continue
        yield rows * _row_bytes(manifest) + AROUND


def _row_bytes(manifest: Manifest) -> int:
    tensors = [TensorInfo(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs]
    return sum(tensor.row_bytes for tensor in tensors if tensor.datatype in HELD)
