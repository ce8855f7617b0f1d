"""Fixtures: one server with the toy models."""

import datetime
from pathlib import Path

import pytest
import trustme

from tests.support import certificates, toy_model
from tests.support.toy_server import repository, server  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_model.write(folder)
    return folder


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = certificates.write(tmp_path_factory.mktemp("pems"))
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    pair = trustme.CA().issue_cert("localhost", not_after=soon)
    pair.cert_chain_pems[0].write_to_path(str(folder / "soon.pem"))
    pair.private_key_pem.write_to_path(str(folder / "soon.key"))
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder
