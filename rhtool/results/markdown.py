"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ()) -> str:
    """Columns padded so as to be read as plain text too, those named in `left` aligned to the left."""
    lines = [header, *rows]
    widths = [max(3, *(len(row[i]) for row in lines)) for i in range(len(header))]
    flush = ["<" if name in left else ">" for name in header]
    rule = [f":{'-' * (w - 1)}" if f == "<" else f"{'-' * (w - 1)}:" for f, w in zip(flush, widths, strict=True)]
    padded = [[f"{text:{f}{w}}" for text, f, w in zip(row, flush, widths, strict=True)] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]]) + "\n"
