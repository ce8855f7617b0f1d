"""Tests of `transport/endpoints.py`."""

from pathlib import Path

import pytest

from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.transport import endpoints
from tests.support.credentials import files as files
from tests.support.credentials import models as models
from tests.support.credentials import server as server


def test_files_that_do_not_serve_are_refused(files: Path, models: Path) -> None:
    for cert, key, client_ca, says in (
        ("none.pem", "server.key", "", "the certificate {0}/none.pem cannot be read: No such file"),
        ("server.pem", "none.key", "", "the private key {0}/none.key cannot be read: No such file"),
        ("text.pem", "server.key", "", "{0}/text.pem is not a certificate in PEM form"),
        ("server.pem", "server.pem", "", "{0}/server.pem is not a private key in PEM form"),
        ("cut.pem", "server.key", "", "{0}/cut.pem or its key {0}/server.key cannot be read"),
        ("server.pem", "caller.key", "", "the private key {0}/caller.key does not belong to the certificate"),
        ("server.pem", "locked.key", "", "the private key {0}/locked.key is encrypted"),
        ("expired.pem", "expired.key", "", "the certificate {0}/expired.pem has expired"),
        ("early.pem", "early.key", "", "the certificate {0}/early.pem is not valid yet"),
        ("server.pem", "server.key", "cut.pem", "a certificate in {0}/cut.pem cannot be read"),
    ):
        supplied = {
            "tls_cert": files / cert,
            "tls_key": files / key,
            "tls_client_ca": files / client_ca if client_ca else None,
        }
        with pytest.raises(ConfigError) as caught:
            endpoints.load(Settings(repository=models, **supplied))
        assert says.format(files) in str(caught.value)
