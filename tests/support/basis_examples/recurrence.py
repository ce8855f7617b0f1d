"""Examples of `kanexport/bases/recurrence.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.recurrence import (
    POWERS,
    al_salam_carlitz,
    askey_wilson,
    bannai_ito,
    boas_buck,
    boubaker,
    charlier,
    gottlieb,
    hermite_functions,
    meixner_pollaczek,
    monomials,
    nacci,
    narayana,
    padovan,
    vieta_pell,
)


def examples() -> list[Basis]:
    """Every family in a few degrees, for the conformance test."""
    rng = np.random.default_rng(0)
    instances: list[Basis] = [nacci(kind, degree) for kind in POWERS for degree in (3, 9)]
    for degree in (0, 1, 5):
        instances += [make(degree) for make in (monomials, boubaker, vieta_pell, narayana, padovan)]
        instances += [gottlieb(degree, -0.7), charlier(degree, 1.5), al_salam_carlitz(degree, 0.3, 0.8)]
        instances += [bannai_ito(degree, 0.2, 0.3, -0.4), meixner_pollaczek(degree, 0.6, 1.2)]
        instances += [askey_wilson(degree, 0.2, -0.4, 0.5, 0.3, 0.6), hermite_functions(degree, 1.0)]
        instances += [boas_buck(degree, *rng.uniform(1, 2, size=(2, degree + 1)) * [[1], [-1]])]
    return instances
