"""Answers whose arrays stay bytes, for callers that draw a million edges: `Accept: application/octet-stream`.

JSON, padded with spaces to a multiple of 8 bytes, whose length is in Inference-Header-Content-Length, as with Triton's
binary data; then the arrays, each from a multiple of 8 on. In the JSON an array is {"$array": [type, offset, *shape]},
the type as numpy writes it ("<f4"), the offset in bytes from where the JSON ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from kanserve.web import arrays
from kanserve.web.exchange import Answer, Asked, json_answer
from kanserve.web.infer import HEADER_LENGTH

KIND = "application/octet-stream"
GRAIN = 8  # bytes, so that any type can be read where it lies
KEY = "$array"


class Told:
    """One answer in the form that was asked for: each message by `told`, all of them by `answer`."""

    def __init__(self, asked: Asked) -> None:
        self.packed = KIND in asked.headers.get("accept", "").lower()
        self._parts: list[bytes] = []
        self._size = 0

    def told(self, message: Any) -> dict[str, Any]:
        """For `answer`, or a part of what it is given."""
        return arrays.plain(message, self._kept if self.packed else arrays.fragment)

    def answer(self, value: object) -> Answer:
        """Of dicts, lists, strings and numbers."""
        if not self.packed:
            return json_answer(value)
        head = orjson.dumps(value)
        head += b" " * (-len(head) % GRAIN)
        body = b"".join((head, *self._parts))
        return Answer(body, KIND, headers={HEADER_LENGTH: str(len(head))}, packs=False)

    def _kept(self, array: np.ndarray[Any, Any]) -> dict[str, Any]:
        data, at = array.tobytes(), self._size
        self._parts.append(data + bytes(-len(data) % GRAIN))
        self._size += len(self._parts[-1])
        return {KEY: [array.dtype.newbyteorder("<").str, at, *array.shape]}
