"""Wav-KAN: one wavelet per edge, then a batch normalization of the nodes.

Source: zavareh1/Wav-KAN, KAN.py, KANLinear.forward, for n inputs, m outputs:

    y = BN( sum_i w_ji psi((x_i - t_ji) / s_ji) )

with w `wavelet_weights`, t `translation`, s `scale`, all [m, n]. `weight1` [m, n] is stored and
dead: the base branch is computed and not added. torch-conv-kan's WavKANLayer has the same keys
and adds it, sum_i weight1_ji SiLU(x_i), before the BN: base_branch=added; copies add sum_i weight1_ji x_i:
base_branch=linear. Which wavelet psi is, is in no file; FC_KAN's layers are always dog. The Shannon
wavelet is multiplied by a Hamming window over the n inputs, not over x; that is a factor of each
source, and goes into the weights. The normalisation's epsilon is in no file either. The textbook's
factor 1 / sqrt(s) of a continuous wavelet transform is in no published code known to us: wavelet_factor=inverse-sqrt.
KAN4TSF's layers may be without BN, which the file tells. The bump wavelet of Wav-KAN's first versions
and of X-KANeRF is refused: it is NaN
in a band outside of its support that is as wide as the type of number makes it.

Options: wavelet_type, base_branch, wavelet_factor, batchnorm_eps
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kanexport.errors import USE_MODULE, InvalidKan, OptionError
from kanexport.functions import elementwise, wavelets
from kanexport.ir.model import Layer, Term
from kanexport.options import Options
from kanexport.readers.common import module_kinds
from kanexport.readers.common.layer_tensors import Keys, Part, branch, layer_of, one_wavelet

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
    absent=("base_weight",),  # ikan's
)
BRANCHES = {"added": "silu", "linear": "identity"}


def layer(part: Part, options: Options) -> Layer:
    """One KANLinear. Raises InvalidKan or OptionError."""
    m, n = part.shape("wavelet_weights")
    if options.optional("wavelet_type") == "bump":
        raise OptionError(
            "wavelet_type=bump is not supported: it is NaN in a band outside of -1 and 1 that depends on the number "
            "type",
            code="option-unsupported",
            hint=USE_MODULE,
        )
    wavelet = wavelets.WAVELETS[options.choice("wavelet_type", wavelets.WAVELETS, "mexican_hat")]
    term = one_wavelet(part, wavelet, part.tensor("wavelet_weights", m, n))
    if options.choice("wavelet_factor", ("none", "inverse-sqrt"), "none") == "inverse-sqrt":
        term = dataclasses.replace(term, coef=term.coef / np.sqrt(part.tensor("scale", m, n).T[:, :, None]))
    terms: tuple[Term, ...] = (term,)
    kind = options.choice("base_branch", ("dead", *BRANCHES), "dead") if part.has("weight1") else "dead"
    if kind in BRANCHES:
        terms += (branch(elementwise.activation(BRANCHES[kind]), part.tensor("weight1", m, n)),)
    norm = part.inside("bn")  # absent in copies that removed it
    if norm.has("running_mean") or norm.has("running_var"):
        return layer_of(*terms, post_steps=(module_kinds.batch_norm(norm, options, m),))
    if norm.has("weight") or norm.has("bias"):
        raise InvalidKan(
            "bn has no running_mean and running_var: its outputs depend on the other rows of the batch",
            code="batchnorm-without-statistics",
            hint="train the model with track_running_stats=True",
        )
    return layer_of(*terms)
