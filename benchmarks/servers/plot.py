"""Bar chart of the measured rates, grouped by concurrency, with one bar per server."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from xml.sax.saxutils import escape

from servers.measured import Measured

COLOURS = ("#9aa5b1", "#5f6f81", "#c9a227", "#7a9e7e", "#1f6feb", "#8250df", "#d1495b", "#2a9d8f")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 330, 64, 44, 34
GAP = 0.25  # of a group's width, between groups


def svg(measured: Measured, title: str) -> str:
    """Bars of the medians, with their numbers; readable on light and dark pages."""
    names, levels = measured.names(), measured.levels()
    rates = {key: statistics.median(sample.rate for sample in samples) for key, samples in measured.samples.items()}
    most = max(rates.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 22 * -(-len(names) // 4)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{escape(title)}</text>',
        *_scale(most),
    ]
    group = (WIDTH - LEFT - 10) / len(levels)
    bar = group * (1 - GAP) / len(names)
    for at, level in enumerate(levels):
        start = LEFT + at * group + group * GAP / 2
        middle = start + bar * len(names) / 2
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{level} in flight</text>')
        for place, name in enumerate(names):
            if (name, level) in rates:
                parts += _bar(start + place * bar, bar, rates[name, level], most, COLOURS[place % len(COLOURS)])
    parts += _legend(names)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _high(rate: float, most: float) -> float:
    return (HEIGHT - TOP - BOTTOM) * rate / most


def _scale(most: float) -> Iterator[str]:
    """Four lines, at a round number of requests per second each."""
    step = next(size for size in (10**power * digit for power in range(9) for digit in (1, 2, 5)) if 4 * size >= most)
    for at in range(int(most // step) + 1):
        y = HEIGHT - BOTTOM - _high(at * step, most)
        yield f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dde1e6"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#57606a">{at * step:,}</text>'


def _bar(x: float, width: float, rate: float, most: float, colour: str) -> list[str]:
    y = HEIGHT - BOTTOM - _high(rate, most)
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{_high(rate, most):.1f}" fill="{colour}"/>',
        f'<text x="{x + width / 2:.1f}" y="{y - 3:.1f}" text-anchor="middle" font-size="8">{rate / 1000:.1f}k</text>',
    ]


def _legend(names: list[str]) -> Iterator[str]:
    for at, name in enumerate(names):
        x, y = LEFT + (at % 4) * 170, HEIGHT + 10 + 22 * (at // 4)
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{COLOURS[at % len(COLOURS)]}"/>'
        yield f'<text x="{x + 15}" y="{y}">{escape(name)}</text>'
