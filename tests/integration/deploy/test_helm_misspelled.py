"""A check notices each misspelled field: in the rendered objects, and in the values."""

from __future__ import annotations

import copy
import functools
import json
import random
from typing import Any

import jsonschema
import yaml

from tests.support.helm_chart import (
    CHART,
    CHOSEN,
    EXAMPLES,
    NEWEST,
    merge,
    only,
    problems,
    render,
    run,
    server,
    user_keys,
)
from tests.support.misspelling import Path, fields, misspelled
from tests.support.tiers import full
from tools.manifests import references, schemas

pytestmark = full("package")

FIELDS = 200


def shape(path: Path) -> Path:
    return tuple(key for key in path if isinstance(key, str))


def test_misspelled_fields_of_the_objects_are_noticed() -> None:
    rng = random.Random(27)
    candidates = {}
    for example in EXAMPLES:
        values = example.read_text()
        for index, document in enumerate(render(values)):
            for path in fields(document):
                candidates.setdefault((document["kind"], shape(path)), (values, index, path))
    assert len(candidates) >= FIELDS
    missed = []
    for values, index, path in rng.sample(sorted(candidates.values(), key=str), FIELDS):
        documents = list(render(values))
        documents[index] = misspelled(documents[index], path, rng)
        keys = user_keys(yaml.safe_load(values))
        if not schemas.problems(documents[index], NEWEST) and not references.problems(documents, keys):
            missed.append((render(values)[index]["kind"], path))
    assert missed == []


def test_misspelled_variables_of_the_server_are_noticed() -> None:
    rng = random.Random(27)
    for example in EXAMPLES:
        values = example.read_text()
        document, keys = copy.deepcopy(only(render(values), "Deployment")), user_keys(yaml.safe_load(values))
        assert references.problems([document], keys) == []
        for variable in server([document])["env"]:
            name = variable["name"]
            (variable["name"],) = misspelled({name: 0}, (name,), rng)
            assert references.problems([document], keys), variable["name"]
            variable["name"] = name


def test_misspelled_values_are_noticed() -> None:
    """By the schema of the values, which helm checks, or by the schemas of the objects that helm renders from them."""
    rng = random.Random(27)
    schema = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    candidates = []
    for text in (*(example.read_text() for example in EXAMPLES), (CHART / "values.yaml").read_text()):
        values = yaml.safe_load(text)
        assert schema.is_valid(merged(values))
        candidates += [(values, path) for path in fields(values) if not set(path[:-1]) & {*CHOSEN, "matchLabels"}]
    missed = []
    for values, path in rng.sample(candidates, FIELDS):
        wrong = misspelled(values, path, rng)
        if schema.is_valid(merged(wrong)) and not rejected(wrong):
            missed.append(path)
    assert missed == []


@functools.cache
def defaults() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def merged(values: Any) -> Any:
    """The values of the chart with those of a file over them, as helm checks them."""
    whole = copy.deepcopy(defaults())
    merge(whole, values)
    return whole


def rejected(values: Any) -> bool:
    """Whether helm rejects values, or a check rejects what it renders from them."""
    text = json.dumps({"insecure": True, "models": {"source": "sync", "sync": {"remote": "r"}}} | values)
    if run("template", "r", str(CHART), "--kube-version", "1.37", values=text).returncode:
        return True
    return bool(problems(render(text), text))
