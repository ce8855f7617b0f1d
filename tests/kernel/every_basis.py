"""Every basis, activation and wavelet as a layer of one operator, compared with float64; run once per instruction set.

    KANKERNEL_MACHINE=avx2 python -m tests.kernel.every_basis [FIRST STEP]

It checks every STEP-th layer from FIRST on, all by default. It prints one line for each layer that differs, then the
number of layers by operator.
"""

import collections
import itertools
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime

from kanexport.bases.activation import Activation
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.functions.wavelets import WAVELETS
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, Term
from kanexport.ir.norms import LayerNorm
from kanexport.lowering.lower import lower
from kanexport.shared import custom_ops
from tests.support import basis_examples

SOURCES, DESTINATIONS, ROWS, TOLERANCE = 3, 5, 40, 1e-5


def terms() -> Iterator[tuple[str, Term]]:
    """Terms for three sources, with names."""
    rng = np.random.default_rng(0)
    every = [basis for name in basis_examples.names() for basis in basis_examples.examples(name)]
    every += [Activation(function) for function in ACTIVATIONS.values()]
    for at, basis in enumerate(every):
        coef = rng.normal(size=(SOURCES, DESTINATIONS, basis.functions))
        yield f"{basis.kind} {at}", BasisTerm(basis, coef)
    norm = LayerNorm(rng.normal(size=SOURCES), rng.normal(size=SOURCES), 1e-5)
    basis = basis_examples.examples("gaussian")[0]
    yield "gaussian after a norm", BasisTerm(basis, rng.normal(size=(SOURCES, DESTINATIONS, 8)), (norm,))
    for name, function in WAVELETS.items():
        centre, rate, coef = rng.normal(size=(3, SOURCES, DESTINATIONS, 2))
        yield name, EdgeTerm(function, centre, rate, coef)


def rows(term: Term) -> np.ndarray:
    """Rows around the support of the term, the last of them not finite."""
    support = term.support(SOURCES)
    low, high = support.outer
    rng = np.random.default_rng(1)
    x = rng.uniform(low - 0.1, high + 0.1, size=(ROWS, SOURCES))
    x[-3:, 0] = np.nan, np.inf, -np.inf
    return x.astype(np.float32)


def fault(term: Term, x: np.ndarray, library: str) -> tuple[str, list[str]]:
    """A text on the difference of a layer, "" for none, and its operators."""
    shape = (SOURCES, DESTINATIONS)
    layer = Layer((term,), np.ones(shape), np.zeros(DESTINATIONS), np.zeros(shape, bool))
    lowered = lower(Kan(SOURCES, (layer,)), "float32", kernel=True)
    if lowered.kernel is None:
        return "", ["none"]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    sessions = [
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for graph in (lowered.model, lowered.kernel)
    ]
    with np.errstate(all="ignore"):
        plain, y = (session.run(["y"], {"x": x})[0] for session in sessions)
    singles = np.concatenate([sessions[1].run(["y"], {"x": x[at : at + 1]})[0] for at in range(ROWS)])
    names = [node.op_type for node in onnx.load_from_string(lowered.kernel).graph.node]
    if singles.tobytes() != y.tobytes():
        return "a single row has other bits", names
    if not np.array_equal(np.isnan(plain), np.isnan(y)):
        return f"NaN in {np.argwhere(np.isnan(plain) != np.isnan(y))[0]}, portable {plain[-3:]}, found {y[-3:]}", names
    return _difference(term, x, plain, y), names


def _difference(term: Term, x: np.ndarray, plain: np.ndarray, y: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        expected = _expected(term, x.astype(np.float64))
    finite = np.isfinite(expected).all(axis=1) & np.isfinite(plain).all(axis=1)
    scale = np.abs(expected[finite]).max() or 1.0
    # Some formulas lose digits in float32 for any evaluation: the portable graph's error is the measure then.
    error, portable = (np.abs(found[finite] - expected[finite]).max() / scale for found in (y, plain))
    return f"error {error:.1e}, portable {portable:.1e}" if error > max(TOLERANCE, 3 * portable) else ""


def _expected(term: Term, x: np.ndarray) -> np.ndarray:
    for step in term.pre_steps:
        x = step.evaluate(x)
    if isinstance(term, BasisTerm):
        return np.asarray(np.einsum("bki,iok->bo", term.basis.evaluate(x), term.coef))
    inner = (x[:, :, None, None] - term.centre) * term.rate
    return np.asarray((term.function.evaluate(inner) * term.coef).sum(axis=(1, 3)))


def main() -> None:
    """Print the differences and the counts."""
    library, counts = custom_ops.library(), collections.Counter[str]()
    first, step = (int(text) for text in sys.argv[1:3] or ("0", "1"))
    for name, term in itertools.islice(terms(), first, None, step):
        text, names = fault(term, rows(term), library)
        if text:
            print(f"{name}: {text}")
        counts.update({kind for kind in names if kind in (*custom_ops.OPERATORS, "none")} or {"portable"})
        if "none" in names:
            print(f"{name}: no operator computes it")
    print(dict(counts))


if __name__ == "__main__":
    main()
