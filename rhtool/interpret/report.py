"""The report of an interpretation: one page of HTML that needs nothing besides itself, and its figures and tables as files."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rhtool.checkpoints import write_atomic
from rhtool.results.plots import DPI

ROUNDING = 1e-12
"""what is smaller is shown as 0"""
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, caption { color: #555; font-size: .9rem; text-align: left; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { caption-side: top; padding-bottom: .4rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e4e4e4; text-align: right; } th { border-bottom: 2px solid #999; }
th.text, td.text { text-align: left; } code, pre { font-size: .9em; background: #f5f5f5; } pre { padding: .6rem; overflow-x: auto; }
.finding { border-left: 4px solid #D55E00; padding: .2rem .9rem; background: #fdf6f1; }
"""


class Report:
    """Sections in the order in which they are added.

    Args:
        directory: of the run: `report.html`, `figures/<name>.png` and `tables/<name>.csv` are written there.
        title: what the report is of.
        command: how it was made, said under the title.
    """

    def __init__(self, directory: Path, title: str, command: str = ""):
        self.directory, self.title = directory, title
        self.parts = [f"<p><code>{html.escape(command)}</code></p>"] if command else []

    def heading(self, text: str) -> None:
        """The heading of a new section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph; `code` in backquotes."""
        self.parts.append(f"<p>{_said(text)}</p>")

    def finding(self, text: str) -> None:
        """A paragraph that says what was found: a reader in a hurry reads these alone."""
        self.parts.append(f'<p class="finding">{_said(text)}</p>')

    def table(self, name: str, table: pd.DataFrame, caption: str, rows: int = 40) -> None:
        """A table, its first `rows` on the page and all of it in `tables/<name>.csv`. Numbers have four digits on the page."""
        folder = self.directory / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.10g").encode())
        texts = {column: not pd.api.types.is_numeric_dtype(table[column]) for column in table}
        mark = {column: ' class="text"' if is_text else "" for column, is_text in texts.items()}
        head = "".join(f"<th{mark[c]}>{html.escape(str(c))}</th>" for c in table)
        body = "".join(
            "<tr>"
            + "".join(f"<td{mark[c]}>{html.escape(_cell(v))}</td>" for c, v in zip(table, row, strict=True))
            + "</tr>"
            for row in table.head(rows).itertuples(index=False)
        )
        left = f" The first {rows} of {len(table)} rows; all: tables/{name}.csv." if len(table) > rows else ""
        self.parts.append(
            f'<div class="wide"><table><caption>{_said(caption + left)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def file(self, name: str, table: pd.DataFrame, said: str) -> None:
        """A table as `tables/<name>.csv` alone; the page says what it is."""
        folder = self.directory / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.10g").encode())
        self.text(f"{said}: `tables/{name}.csv`.")

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A picture, on the page and as `figures/<name>.png`. The caption says what is seen, for those who cannot see it too."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        folder = self.directory / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{name}.png", buffer.getvalue())
        data = base64.b64encode(buffer.getvalue()).decode()
        alt = html.escape(caption, quote=True)
        self.parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{alt}"><figcaption>{_said(caption)}</figcaption></figure>'
        )

    def html(self, fragment: str) -> None:
        """HTML of one's own, such as coloured text. What comes from data must be escaped in it."""
        self.parts.append(fragment)

    def write(self) -> Path:
        """Write `report.html`, and return its path."""
        body = "\n".join(self.parts)
        title = html.escape(self.title)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
            f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )
        path = self.directory / "report.html"
        write_atomic(path, page.encode())
        return path


def _said(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}" if abs(value) > ROUNDING else "0"
    return str(value)
