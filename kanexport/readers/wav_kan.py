"""Wav-KAN: one wavelet an edge, then a batch normalisation of the nodes.

Source: zavareh1/Wav-KAN, KAN.py, KANLinear.forward, for n inputs, m outputs:

    y = BN( sum_i w_ji psi((x_i - t_ji) / s_ji) )

with w `wavelet_weights`, t `translation`, s `scale`, all [m, n]. `weight1` [m, n] is stored and
dead: the base branch is computed and not added. torch-conv-kan's WavKANLayer has the same keys
and adds it, sum_i weight1_ji SiLU(x_i), before the BN: base_branch=added. Which wavelet psi is,
is in no file. The Shannon wavelet is multiplied by a Hamming window over the n inputs, not over
x; that is a factor of each source, and goes into the weights. The normalisation's epsilon is in
no file either.
"""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.errors import InvalidKan
from kanexport.form.ir import BasisTerm, EdgeTerm, Layer, Term
from kanexport.form.steps import Step
from kanexport.functions import unary, wavelets
from kanexport.layers import stack
from kanexport.layers.parts import Keys, Part, product
from kanexport.options import Options

FAMILY = "wav-kan"
KEYS = Keys(
    required={"wavelet_weights": 2, "scale": 2, "translation": 2},
    optional={
        "weight1": 2,
        "bn.weight": 1,
        "bn.bias": 1,
        "bn.running_mean": 1,
        "bn.running_var": 1,
        "bn.num_batches_tracked": 0,
    },
)


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    m, n = part.shape("wavelet_weights")
    wavelet = wavelets.WAVELETS[options.choice("wavelet_type", wavelets.WAVELETS, "mexican_hat")]
    weights = part.tensor("wavelet_weights", m, n)
    if wavelet.name == "shannon":
        weights = product(weights, hamming(n)[None, :])
    term = EdgeTerm(
        wavelet,
        centre=part.tensor("translation", m, n).T[:, :, None],
        rate=wavelets.rates(part.tensor("scale", m, n)[:, :, None]),
        coef=weights.T[:, :, None],
    )
    terms: tuple[Term, ...] = (term,)
    if part.has("weight1") and options.choice("base_branch", ("dead", "added"), "dead") == "added":
        terms += (BasisTerm(Activation(unary.activation("silu")), part.tensor("weight1", m, n).T[:, :, None]),)
    return Layer(
        terms,
        mask=np.ones((n, m)),
        bias=np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
        after=_norm(part, options, m),
    )


def hamming(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """torch.hamming_window(count, periodic=False): 0.54 - 0.46 cos(2 pi i / (count - 1)); [1] for one."""
    if count == 1:
        return np.ones(1)
    return np.asarray(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(count) / (count - 1)))


def _norm(part: Part, options: Options, width: int) -> tuple[Step, ...]:
    """The layer's BatchNorm1d; absent in copies that took it out."""
    bn = Part(part.tensors, part.prefix + "bn.")
    if bn.has("running_mean") or bn.has("running_var"):
        return (stack.batch_norm(bn, options, width),)
    if bn.has("weight") or bn.has("bias"):
        raise InvalidKan(
            "bn has no running_mean and running_var: it normalises every batch by itself",
            hint="an output would depend on the other rows of its batch; train with track_running_stats=True",
        )
    return ()
