"""Fixtures and calls of the checks: a repository, certificates, and what `serve --check` and `doctor` find."""

import datetime
import json
from pathlib import Path

import pytest
import trustme

from kanserve.cli.doctor.check_results import Level
from tests.support import credentials, toy_model
from tests.support.command_line import kanserve

FREE = ("--grpc-port", "0", "--metrics-port", "0")
Found = list[dict[str, str]]


def check(*arguments: object, **environment: str) -> tuple[int, Found]:
    """Exit code and findings of `kanserve serve --check`."""
    done = kanserve("serve", *arguments, "--check", "--json", **environment)
    return done.returncode, json.loads(done.stdout)["findings"]


def doctor(*arguments: object, **environment: str) -> tuple[int, Found]:
    """Exit code and findings of `kanserve doctor`."""
    done = kanserve("doctor", *arguments, "--json", **environment)
    return done.returncode, json.loads(done.stdout)["findings"]


def told(actual: Found, level: Level) -> list[str]:
    return [f"{item['about']}: {item['text']}" for item in actual if item["level"] == level]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_model.write(folder)
    return folder


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = credentials.write_certificates(tmp_path_factory.mktemp("pems"))
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    pair = trustme.CA().issue_cert("localhost", not_after=soon)
    pair.cert_chain_pems[0].write_to_path(str(folder / "soon.pem"))
    pair.private_key_pem.write_to_path(str(folder / "soon.key"))
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder
