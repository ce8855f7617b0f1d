"""A client as who asks for curves."""

from __future__ import annotations

from collections.abc import Sequence

from kanserve.client.connection import Client
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description
from kanserve.client.errors import NotSupported
from kanserve.portrait.contents import Curves


def curves(client: Client, described: Description) -> Curves:
    """Of this version."""

    def ask(
        *, layers: Sequence[int], sources: Sequence[int] = (), destinations: Sequence[int] = (), points: int
    ) -> Sequence[LayerCurves]:
        try:
            return client.curves(
                described.name,
                described.version,
                layers=layers,
                sources=sources,
                destinations=destinations,
                points=points,
            )
        except NotSupported:  # an edge of class B is no curve
            return ()

    return ask
