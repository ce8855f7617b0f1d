"""Errors that a test expects, with their codes and words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import pytest

from kanserve.errors import LoadError, LoadReason


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str = "") -> Iterator[pytest.ExceptionInfo[grpc.RpcError]]:
    """Context whose call a server ends with this code, and with these words in its details."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert (caught.value.code(), words in caught.value.details()) == (code, True), caught.value


@contextlib.contextmanager
def not_loaded(reason: LoadReason, words: str = "") -> Iterator[pytest.ExceptionInfo[LoadError]]:
    """Context that raises a LoadError with this reason and these words."""
    with pytest.raises(LoadError) as caught:
        yield caught
    assert (caught.value.reason, words in str(caught.value)) == (reason, True), str(caught.value)
