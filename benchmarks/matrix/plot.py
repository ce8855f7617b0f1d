"""Plots of the measurements, with matplotlib: speedup over torch's export by batch size, and the time of each system
for one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix import goals, labels
from benchmarks.matrix.contestants import EXPORT
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM

Record = Mapping[str, Any]
SIZE, GREY, CASE = (9.0, 3.8), "#777777", "[784, 64, 10], G = 5"
MARKERS = "osD^vPXhd*"  # as many as systems, so that no line is known by its colour only
RATIOS, TIMES = "matrix-ratios.svg", "matrix-times.svg"


def write(records: Sequence[Record], folder: Path) -> list[str]:
    """The names of the files; none where there is nothing to show."""
    groups = [name for name in (UNIFORM, ADAPTED) if goals.ratios(records, name, EXPORT)]
    if not groups:
        return []
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "kanserve"  # the same figures make the same file
    _ratios(records, groups, folder / RATIOS)
    times = [record for record in records if record["group"] in groups and record["case"] == CASE]
    if times:
        _times(times, folder / TIMES)
    return [RATIOS, *([TIMES] if times else [])]


def _ratios(records: Sequence[Record], groups: Sequence[str], path: Path) -> None:
    for axes, group in _axes(groups, path, f"speedup over {EXPORT}\n(higher is better)"):
        ratios = goals.ratios(records, group, EXPORT)
        for at, case in enumerate(dict.fromkeys(name for name, _ in ratios)):
            points = sorted((rows, value) for (name, rows), value in ratios.items() if name == case)
            axes.plot(*zip(*points, strict=True), marker=MARKERS[at], label=case, color=f"C{at}")
        axes.axhline(1, color=GREY, linewidth=0.8)
        axes.set_xticks(rows := sorted({rows for _, rows in ratios}), rows)
        axes.set_yticks([1, 2, 4, 8, 16], ["1x", "2x", "4x", "8x", "16x"])


def _times(records: Sequence[Record], path: Path) -> None:
    groups = list(dict.fromkeys(record["group"] for record in records))
    names = list(dict.fromkeys(entrant["name"] for record in records for entrant in record["entrants"]))
    for axes, group in _axes(groups, path, "us per row (lower is better)"):
        own = [record for record in records if record["group"] == group]
        for at, name in enumerate(names):
            every = [(record["rows"], entrant) for record in own if (entrant := goals.of(record, name)) is not None]
            if not every:
                continue
            rows = [count for count, _ in every]
            middle = [1e6 * entrant["median"] / count for count, entrant in every]
            spread = [
                [1e6 * abs(entrant["median"] - entrant[end]) / count for count, entrant in every]
                for end in ("lower", "upper")
            ]
            label = labels.of(name)
            axes.errorbar(
                rows,
                middle,
                yerr=spread,
                marker=MARKERS[at],
                markersize=4,
                capsize=2,
                label=label,
                color=f"C{at}",
            )
        axes.set_title(f"{CASE}, {group} knots")
        axes.set_xticks(counts := sorted({entrant["rows"] for entrant in own}), counts)


def _axes(groups: Sequence[str], path: Path, label: str) -> Iterator[tuple[Any, str]]:
    """One for each group, side by side, on the same scale; the file is written when all were drawn."""
    from matplotlib import pyplot as plt

    figure, every = plt.subplots(1, len(groups), figsize=SIZE, sharey=True, squeeze=False)
    for axes, group in zip(every[0], groups, strict=True):
        axes.set(xscale="log", yscale="log", title=f"{group} knots", xlabel="batch size, rows")
        yield axes, group
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    every[0][0].set_ylabel(label)
    named = {name: handle for axes in every[0] for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), fontsize=7, loc="lower center", ncols=5)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
