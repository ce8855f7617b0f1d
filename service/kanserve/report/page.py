"""Report as one HTML file with text, tables and pictures, without external resources. A report that computes has one
script, and a content security policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kanserve.plotting import render
from kanserve.plotting.scenes import Scene
from kanserve.report.interactive import Interactive

STYLE = """
body { font: 15px/1.5 ui-sans-serif, system-ui, sans-serif; color: #111; background: #fff; margin: 2rem auto;
       max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { color: #555; margin-top: .2rem; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
th { font-weight: 600; white-space: nowrap; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
div.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1rem; }
div.bar { background: #2266bb; height: .8rem; } footer { color: #777; margin: 3rem 0 1rem; font-size: .85rem; }
section { overflow-x: auto; } tr.chosen { background: #eef3fb; } div.share { background: #2266bb; height: .8rem; }
div.share.less { background: #bb6622; } input[type="number"] { width: 7rem; }
table.inputs td { vertical-align: middle; }
@media (max-width: 50rem) { div.grid { grid-template-columns: 1fr; } }
@media print { div.grid { grid-template-columns: 1fr 1fr; } svg { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """Lines of a name and a text."""

    heading: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bars:
    """Lines of a name and a number, 0 and up, each with a bar."""

    heading: str
    remark: str
    lines: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """One picture, or several next to each other."""

    heading: str
    remark: str
    scenes: Sequence[Scene]


@dataclass(frozen=True, slots=True)
class Grid:
    """Table with `head` and lines of the same length."""

    heading: str
    remark: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


Part = Facts | Bars | Grid | Pictures


@dataclass(frozen=True, slots=True)
class Report:
    """Content of a report, in order."""

    title: str
    lead: str
    parts: Sequence[Part]
    footer: str
    interactive: Interactive | None = None


def html(report: Report) -> str:
    """The HTML file."""
    body, title = "\n".join(map(_part, report.parts)), report.title
    policy = ""
    if report.interactive is not None:
        body = (
            "<h2>Try it</h2>\n<p>Move a slider, or select an output. This page computes without a network.</p>\n"
            '<section id="interactive"><noscript>This part needs JavaScript.</noscript></section>\n'
            f'<script type="application/json" id="interactive-data">{report.interactive.data}</script>\n'
            f"<script>{report.interactive.script}</script>\n{body}"
        )
        policy = f'<meta http-equiv="Content-Security-Policy" content="{escape(report.interactive.policy)}">\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{policy}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(report.lead)}</p>\n{body}\n'
        f"<footer>{escape(report.footer)}</footer>\n</body>\n</html>\n"
    )


def _part(part: Part) -> str:
    heading = f"<h2>{escape(part.heading)}</h2>"
    if isinstance(part, Facts):
        lines = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in part.lines)
        return f"{heading}\n<table>{''.join(lines)}</table>"
    remark = f"<p>{escape(part.remark)}</p>"
    if isinstance(part, Grid):
        cells = "".join(_line("td", item) for item in part.lines)
        return f"{heading}\n{remark}\n<table>{_line('th', part.head)}{cells}</table>"
    if isinstance(part, Bars):
        largest = max((number for _, number in part.lines), default=0.0) or 1.0
        text = ""
        for name, number in part.lines:
            width = 40 * min(1.0, max(0.0, number / largest))
            bar = f'<td><div class="bar" style="width: {width:.2f}rem"></div></td>'
            text += f'<tr><th>{escape(name)}</th><td class="n">{number:.4g}</td>{bar}</tr>'
        return f"{heading}\n{remark}\n<table>{text}</table>"
    pictures = "\n".join(f"<div>{render.text(scene)}</div>" for scene in part.scenes)
    return f"{heading}\n{remark}\n" + (f'<div class="grid">{pictures}</div>' if len(part.scenes) > 1 else pictures)


def _line(tag: str, words: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(word)}</{tag}>' for word in words)}</tr>"
