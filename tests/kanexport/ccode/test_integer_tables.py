"""Coefficients as whole numbers: their scales, the rounded network, and C code with such tables."""

import numpy as np
import pytest

from kanexport.ccode import compiled, integer_tables
from kanexport.ccode.integer_tables import Codes
from kanexport.errors import VerificationFailed
from kanexport.verify import float64_reference
from tests.support import c_code
from tests.support.golden_cases import case, network
from tests.support.tiers import spread

WIDE = "efficient-kan-digits"


def test_codes_are_within_the_limit_and_round_by_half_a_step() -> None:
    rng = np.random.default_rng(0)
    coefficients = (rng.normal(size=(5, 8, 3)) * 10.0 ** rng.integers(-4, 3, size=(5, 1, 3))).astype(np.float32)
    coefficients[1], coefficients[:, :, 2] = 0, 0
    codes = Codes.of(coefficients, coefficients[:, 0], 127)
    assert np.abs(codes.numbers).max() <= 127
    step = codes.rows[:, None, None] * codes.columns
    both = np.concatenate([coefficients, coefficients[:, :1]], axis=1)
    assert (np.abs(codes.values() - both) <= 0.501 * step).all()
    assert not codes.values()[1].any()


@spread("storage,share", [("int8", 0.28), ("int16", 0.53)], 1)
def test_the_code_computes_the_rounded_network(storage: str, share: float) -> None:
    c_code.needs("cc")
    files, whole, kan = c_code.code(WIDE, storage, 0.05), c_code.code(WIDE), network(WIDE)
    x = case(WIDE).reference()["x"][:50].astype(np.float32)
    with compiled.program(files.code, 64, 10, ["cc"]) as program:
        y, contributions = program.run(x)
    expected = float64_reference.evaluate(integer_tables.rounded(kan, storage), x.astype(np.float64)).y
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert contributions is not None
    predict, of_whole = (code.tables - code.explain_tables for code in (files.code, whole.code))
    assert predict < share * of_whole


def test_a_target_that_integers_miss_is_an_error() -> None:
    c_code.needs("cc")
    with pytest.raises(VerificationFailed, match=r"net\.c differs from the checkpoint") as caught:
        c_code.code("pykan-hello-adapted", "int8", 1e-5)
    assert "or use larger --c-tables" in caught.value.hint
