"""Pictures of what was measured, by matplotlib: how many times as fast as others, over the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix import goals
from benchmarks.matrix.contestants import EXPORT
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM

Record = Mapping[str, Any]
SIZE, ONE = (9.0, 3.6), "#777777"


def write(records: Sequence[Record], folder: Path) -> list[str]:
    """The names of the files; none where there is nothing to show."""
    groups = [name for name in (UNIFORM, ADAPTED) if goals.ratios(records, name, EXPORT)]
    if not groups:
        return []
    import matplotlib as mpl

    # The same figures make the same file.
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "kanserve"
    from matplotlib import pyplot as plt

    figure, every = plt.subplots(1, len(groups), figsize=SIZE, sharey=True, squeeze=False)
    for axes, group in zip(every[0], groups, strict=True):
        found = goals.ratios(records, group, EXPORT)
        for case in dict.fromkeys(name for name, _ in found):
            points = sorted((rows, value) for (name, rows), value in found.items() if name == case)
            axes.plot(*zip(*points, strict=True), marker="o", label=case)
        axes.axhline(1, color=ONE, linewidth=0.8)
        axes.set(xscale="log", yscale="log", title=f"{group} knots", xlabel="rows of a run")
        axes.set_xticks(sorted({rows for _, rows in found}), sorted({rows for _, rows in found}))
        axes.set_yticks([1, 2, 4, 8, 16], ["1x", "2x", "4x", "8x", "16x"])
        axes.grid(alpha=0.3)
    every[0][0].set_ylabel(f"{EXPORT} / ours")
    every[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "matrix.svg", metadata={"Date": None})
    plt.close(figure)
    return ["matrix.svg"]
