"""What becomes of rows whose inputs lie where a model's first functions were not made for: chosen at its export, kept
in its manifest. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

AS_TRAINED, FLAG, REJECT, CLAMP = "as-trained", "flag", "reject", "clamp"
CHOICE = (
    "what becomes of rows with an input where the first layer was not made for: answered as the trained model does, "
    "counted too (flag), refused (reject), or kept on the grid by the graph itself (clamp)"
)
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        AS_TRAINED: "rows outside are answered as the trained model answers them",
        FLAG: "rows outside are answered, counted, and told with the answer",
        REJECT: "requests with a row outside are refused",
        CLAMP: "inputs are kept on the grid, by the graph itself: a row beyond it is answered as the nearest one on it",
    }
)
