"""What the pages of reports share: the frame, the style, a table. Text goes in plain and comes out escaped.

A page loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

STYLE = """
body{font:15px/1.45 system-ui,Helvetica,Arial,sans-serif;color:#222;margin:2em auto;max-width:1100px;padding:0 1.5em}
h1{font-size:1.3em;margin-bottom:.4em}h2{font-size:1.15em;margin-top:2em}h3{font-size:1em}.dim{color:#666}
.verdict{border-left:6px solid;padding:.6em 1em;margin:1em 0;background:#f7f7f7}.verdict b{font-size:1.15em}
.good{border-color:#15803d}.bad{border-color:#b91c1c}.open{border-color:#777}
.verdict ul{margin:.4em 0 0;padding-left:1.2em}
table{border-collapse:collapse}td,th{padding:.25em 1.2em .25em 0;text-align:left;border-bottom:1px solid #eee}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.bad td{color:#b91c1c;font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:24px;margin-top:1.2em}figure{margin:0;max-width:480px}
figure svg{width:100%;height:auto}figcaption{font-size:.9em;color:#444}code{font-size:.85em;word-break:break-all}
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole page; `body` is HTML, `style` goes behind `STYLE`."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers_from: int = 1,
    marked: Collection[int] = (),
) -> str:
    """Columns from `numbers_from` on are aligned to the right; marked rows stand out."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers_from else ''}>{escape(value)}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(
        f"<tr{' class=bad' if number in marked else ''}>{cells(row, 'td')}</tr>" for number, row in enumerate(rows)
    )
    return f"<table><tr>{cells(heads, 'th')}</tr>{body}</table>"


def sentences(texts: Sequence[str]) -> str:
    """A list; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in texts)}</ul>" if texts else ""
