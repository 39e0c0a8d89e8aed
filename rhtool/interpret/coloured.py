"""Text in colours as HTML: what raises a score on orange, what lowers it on blue, the stronger the more."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

RAISES, LOWERS = (213, 94, 0), (0, 114, 178)
"""Okabe and Ito's vermilion and blue, which the colour-blind tell apart"""
BOX = "border:1px solid #e4e4e4;padding:.4rem .7rem;margin:.5rem 0;line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere"


def legend(what: str) -> str:
    """What the colours mean, `what` being the number."""
    swatches = "".join(f'<span style="{_style(x, 1.0)};padding:0 .7rem">&nbsp;</span>' for x in (-1, -0.5, 0, 0.5, 1))
    return f'<p style="color:#555;font-size:.9rem">{html.escape(what)}: lowers {swatches} raises. Point at a piece for its number.</p>'


def coloured(pieces: Sequence[tuple[str, float | None]], scale: float) -> str:
    """Pieces of text with their numbers, `scale` being the strongest colour; a piece with None has no colour."""
    found = []
    for text, value in pieces:
        shown = html.escape(text)
        if value is None:
            found.append(f'<span style="color:#777">{shown}</span>')
        else:
            found.append(f'<span style="{_style(value, scale)}" title="{value:+.4g}">{shown}</span>')
    return "".join(found)


def box(head: str, body: str) -> str:
    """A framed text; `head`, plain text, above it, `body` HTML."""
    return f'<div style="{BOX}"><small style="color:#555">{html.escape(head)}</small>\n{body}</div>'


def marked(text: str, phrases: Iterable[str]) -> str:
    """The text with its words that are part of one of the phrases marked, whatever their case."""
    listed = sorted(set(phrases), key=len, reverse=True)
    if not listed:
        return html.escape(text)
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(p).replace(r"\ ", r"\W+") for p in listed) + r")\b", re.I)
    parts, last = [], 0
    for match in pattern.finditer(text):
        parts += [html.escape(text[last : match.start()]), f"<mark>{html.escape(match[0])}</mark>"]
        last = match.end()
    return "".join([*parts, html.escape(text[last:])])


def _style(value: float, scale: float) -> str:
    share = min(1.0, abs(value) / scale) if scale > 0 else 0.0
    red, green, blue = RAISES if value > 0 else LOWERS
    ink = "color:#fff" if share > 0.8 else "color:#222"
    return f"background:rgba({red},{green},{blue},{0.85 * share:.3f});{ink}"
