"""Batch invariance of every golden model: a row's output does not depend on the batch that it is in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kanserve import Client
from tests.support.golden_cases import Case, cases

ROWS = 24
UNITS = 1  # in the last place of the largest answer; 0.5 of sines and cosines were seen, 0 of all others


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_company_changes_no_more_than_the_last_bits(case: Case, served, state_error) -> None:
    rows = case.reference()["x"][:ROWS].astype(np.float32)
    with Client(served.url) as client, ThreadPoolExecutor(8) as pool:
        model = client.model(case.name)

        def ask(part: np.ndarray) -> np.ndarray:
            answer = client.infer(model.inputs[0], part, model=case.name)
            return answer.outputs[model.outputs[0].name]

        single = [rows[at : at + 1] for at in range(len(rows))]
        alone = np.concatenate([ask(row) for row in single])
        for company in (ask(rows), np.concatenate(list(pool.map(ask, single)))):
            finite = np.isfinite(alone)
            np.testing.assert_array_equal(np.where(finite, 0, company), np.where(finite, 0, alone))
            unit = np.spacing(np.abs(alone[finite]).max(initial=np.float32(0)))
            units = float(np.abs(company[finite] - alone[finite]).max(initial=0) / unit)
            state_error("in company, units in the last place", units, case.name)
            assert units <= UNITS
