"""Policies of checkov on the rendered chart, with the ones that do not fit and the reasons."""

import json
import subprocess
from pathlib import Path

import yaml

from tests.support import programs
from tests.support.helm_chart import EXAMPLES, render
from tests.support.tiers import full

pytestmark = full("package")

SKIPPED = {
    "CKV_K8S_43": "the user sets image.digest",
    "CKV_K8S_15": "IfNotPresent starts pods while the registry fails",
    "CKV_K8S_35": "rclone reads the credentials of a remote from variables",
    "CKV_K8S_11": "the synchronization and the test have no CPU limit, so that neither is throttled",
    "CKV_K8S_8": "the synchronization and the test have no liveness",
    "CKV_K8S_9": "the test is not ready for anything",
    "CKV2_K8S_6": "the pod of helm test ends after one request",
}


def test_the_chart_has_no_finding_without_a_reason(tmp_path: Path) -> None:
    for example in EXAMPLES:
        text = yaml.safe_dump_all(render(example.read_text()))
        (tmp_path / f"{example.stem}.yaml").write_text(text)
    command = [programs.command("checkov"), "--directory", str(tmp_path), "--framework", "kubernetes"]
    command += ["--skip-download", "--output", "json", "--skip-check", ",".join(SKIPPED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    result = json.loads(done.stdout)
    assert result["summary"]["passed"] > 100
    assert [(check["check_id"], check["resource"]) for check in result["results"]["failed_checks"]] == []
