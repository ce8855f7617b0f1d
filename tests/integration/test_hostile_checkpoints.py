"""Hostile and damaged checkpoints: no code runs, and each gives a typed error quickly and in little memory."""

import dataclasses
import json
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from kanexport.detection import detect
from kanexport.errors import CheckpointError, ExportError
from kanexport.formats import checkpoint
from kanexport.lowering import lower
from kanexport.options import KnownFacts, Options
from kanexport.verify import verify
from tests.support import hostile_files
from tests.support.golden_cases import ROOT, Case, cases
from tests.support.hostile_checkpoints import MUTATIONS, mutate
from tests.support.tiers import full, spread

SECONDS = 20.0  # of processor time, which a busy machine and coverage prolong; the attacks aim at hours
MEMORY = 500 * 1024  # KiB
MESSAGE = 2000  # characters
RUNNER = ROOT / "tests" / "support" / "hostile_checkpoints.py"


# Part of the message about some files of the corpus.
FITTING = {
    "pickle: global reduce": "os.system",
    "format: plain pickle as model.joblib": "neither a torch.save archive nor safetensors",
    "format: torch of before 1.6": "before 1.6",
    "format: TorchScript": "TorchScript",
    "pickle: key 0 and key '0'": "two values under the name '0'",
    "zip: bomb by ratio": "archive unpacks to",
    "zip: cut in half": "cut off",
    "tensors: functions without end": "100000 functions",
    "tensors: degree without end": "splines of degree",
    "tensors: layers without end": "9001 efficient-kan layers",
    "tensors: a degree of 4000": "degree 4000, expected at most 1000",
    "tensors: a grid for every edge": "2001 different grids",
    "tensors: points without end": "30002 functions",
    "tensors: tensors without end": "more than 30000",
    "config: a name that is code": "x']=1;import os#",
    "config: widths of gigabytes": "width",
    "steps: an unknown library": "'numpy'",
}


@full("rare")
def test_every_file_of_the_corpus_is_a_typed_error_and_nothing_else_happens(tmp_path: Path) -> None:
    """A separate process exports the whole corpus. It runs, loads and writes nothing, and uses little memory."""
    hostile_files.write(tmp_path, hostile_files.corpus(tmp_path / "canary"))
    command = [sys.executable, str(RUNNER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    errors = {result["name"]: result["error"] for result in told["results"]}
    assert len(errors) > 150
    assert {name: error for name, error in errors.items() if not error or error["kind"].startswith("UNTYPED")} == {}
    for name, error in errors.items():
        assert 10 < len(error["message"]) < MESSAGE, name
        assert len(error["hint"]) < MESSAGE, name
        assert "Traceback" not in error["message"], name
    messages = {name: errors[name]["message"] for name in FITTING}
    assert {name: said for name, said in messages.items() if FITTING[name] not in said} == {}
    assert {result["name"]: result["seconds"] for result in told["results"] if result["seconds"] > SECONDS} == {}
    assert told["peak_kib"] < MEMORY
    assert {result["name"]: result["seen"] for result in told["results"] if result["seen"]} == {}
    assert [path.name for path in tmp_path.iterdir() if not path.name.isdecimal()] == ["list.json"]


def _attempt(case: Case, tensors: dict[str, Any], *, prove: bool) -> ExportError | None:
    """Read, lower and, on request, verify the case with other tensors; the typed error if there is one."""
    options = Options(KnownFacts.parse(case.options))
    loaded = dataclasses.replace(checkpoint.load(case.path), tensors=tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader, _ = detect.detect(loaded, None)
            kan = detect.read(reader, loaded, options)
            options.finish(reader.FAMILY)
            lowered = lower.lower(kan, "float32")
            if prove:
                verify.verify(kan, lowered, "float32")
    except ExportError as error:
        return error
    return None


def _names_its_place(message: str, keys: list[str]) -> bool:
    """Whether a message says where: a key, the prefix or the last name of one, a layer, an edge, a step."""
    parts = {part for key in keys for part in (key, key.rpartition(".")[0], key.rpartition(".")[2]) if part}
    return bool(re.search(r"\b(layer|edge|step)s?\b", message)) or any(part in message for part in parts)


PLAIN = [case for case in cases() if not case.name.startswith("hybrid")]


@spread("case", PLAIN, 2, "rare", ids=lambda case: case.name)
def test_spoilt_tensors_are_exported_with_their_proof_or_refused_by_name(case: Case) -> None:
    """Every golden checkpoint, one tensor dropped, turned, cut, grown, emptied, renamed,
    of another type, not finite, ..."""
    rng = random.Random(case.name)
    tensors = checkpoint.load(case.path).tensors
    proofs = 2
    for kind in sorted(MUTATIONS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about what is done here on purpose
            what, spoilt = mutate(rng, tensors, kind=kind)
        started = time.process_time()
        prove = proofs > 0 and kind in ("tiny", "negative", "integers", "floats", "shuffle")
        error = _attempt(case, spoilt, prove=prove)
        proofs -= prove and error is None
        assert time.process_time() - started < SECONDS, what
        if error is not None and not isinstance(error, CheckpointError):
            assert 10 < len(error.message) < MESSAGE, what
            assert _names_its_place(error.message, [*tensors, *spoilt]), (what, error.message)


def test_nothing_in_the_product_can_run_a_file() -> None:
    """No pickle, no joblib, no YAML loader but the inert one, no torch.load but of plain weights."""
    forbidden = re.compile(
        r"weights_only\s*=\s*False|pickle\.loads?\b|Unpickler|joblib|yaml\.(full_|unsafe_)?load\(|(?<!\.)\b(eval|exec)\("
        r"|allow_pickle=(?!False)|marshal\.loads|torch\.load\((?!.*weights_only=True)"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("kanexport", "service/kanserve")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line.split("#")[0])
    ]
    assert found == []
