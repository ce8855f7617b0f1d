"""The part of a report that computes: which modules fit a model, and what the page allows."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kanexport.shared import wasm_module
from kanexport.shared.manifest import SourceFile
from kanexport.shared.wasm_module import WasmModuleError
from kanserve.report import interactive, page
from kanserve.report.interactive import ModuleMismatch
from kanserve.types import Description, TensorInfo

MODULE = (Path(__file__).parents[2] / "golden" / "wasm" / "pykan-hello-adapted.wasm").read_bytes()
FACTS = wasm_module.facts(MODULE)


def described(**changed) -> Description:
    whole = Description(
        name="hello", version="1", digest="", family="pykan", edge_class="A",
        inputs=(TensorInfo("x", "FP32", (-1, 2)),), outputs=(TensorInfo("y", "FP32", (-1, 1)),), layers=(),
        max_batch_size=8, max_rows=8, max_response_bytes=1000, notes=(), verification_basis="", claim="",
        options_assumed={},
        files=tuple(SourceFile(name=name, sha256=digest) for name, digest in FACTS.sources.items()),
    )  # fmt: skip
    return replace(whole, **changed)


def test_only_a_module_of_the_model_has_its_facts() -> None:
    assert interactive.facts(MODULE, described()) == FACTS
    assert (FACTS.inputs, FACTS.outputs, len(FACTS.base)) == (2, 1, 1)
    other = (SourceFile(name="model_state", sha256="00" * 32),)
    for changed, message in (
        ({"inputs": (TensorInfo("x", "FP32", (-1, 3)),)}, "the module has 2 inputs and 1 outputs, hello has 3 and 1"),
        ({"outputs": ()}, "hello has 2 and 0"),
        ({"files": other}, "whose sha256 is not that of the files"),
        ({"files": ()}, "whose sha256 is not that of the files of hello version 1"),
    ):
        with pytest.raises(ModuleMismatch, match=message) as caught:
            interactive.facts(MODULE, described(**changed))
        assert caught.value.code == "wasm-module-mismatch"
    with pytest.raises(WasmModuleError):
        interactive.facts(b"<html>", described())


def test_the_page_allows_its_script_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, y = np.zeros((3, 2), np.float32), np.zeros((3, 1))
    monkeypatch.setattr(interactive, "ranges", lambda described: (-np.ones(2), np.ones(2)))
    hostile = replace(described().names, features=("</script><b>", "w"), units=("m", ""))
    part = interactive.part(MODULE, described(names=hostile), None, x=rows, y=y)
    text = page.html(page.Report("t", "l", (), "f", part))
    policy = re.search(r'Content-Security-Policy" content="(.*?)">', text)[1].replace("&#x27;", "'")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'wasm-unsafe-eval'" in policy
    assert policy.startswith("default-src 'none'; ")
    (data,) = re.findall(r'<script type="application/json" id="interactive-data">(.*?)</script>', text, re.DOTALL)
    document = json.loads(data)
    assert document["inputs"][0]["name"] == "</script><b>"
    assert base64.b64decode(document["module"]) == MODULE
    assert not re.search(r"\son[a-z]+=", text)
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", text)
