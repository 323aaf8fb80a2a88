"""Pieces of a self-contained HTML page: sections, tables, figures. Nothing on it is fetched from anywhere.

Text given to `html_table`, `facts` and `page` is plain and escaped here; text inside a Plotly figure goes through
`shown`, because Plotly reads tags and entities in labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b87a00",
    "#3c9ad6",
    "#7f868e",
)
"""Okabe and Ito's colours, the lightest darkened so that all stand out from white and from near-black."""
_FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    body: str


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Return the whole document, plotly.js embedded once."""
    from plotly.offline import get_plotlyjs

    template = Template((files("server") / "templates" / "report.html").read_text(encoding="utf-8"))
    body = "\n".join(f"<section>\n<h2>{escape(x.title)}</h2>\n{x.body}\n</section>" for x in sections if x.body)
    return template.substitute(title=escape(title), lead=escape(lead), body=body, plotly=get_plotlyjs())


def paragraph(text: str, kind: str = "") -> str:
    """Return plain text as a paragraph; `kind` is "note" for an aside."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", kinds: Mapping[int, str] | None = None
) -> str:
    """Return a table with a row heading in the first column; `kinds` marks rows by number as "main" or "sub"."""
    label = f' aria-label="{escape(caption)}"' if caption else ""
    lines = [paragraph(caption, "note") if caption else "", f'<div class="scroll"><table{label}>', "<thead><tr>"]
    lines += [f'<th scope="col">{escape(column)}</th>' for column in head]
    lines.append("</tr></thead><tbody>")
    for i, row in enumerate(rows):
        kind = (kinds or {}).get(i)
        first, *others = (escape(cell_text(value)) for value in row)
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td>{text}</td>" for text in others)
        lines.append((f'<tr class="{kind}">' if kind else "<tr>") + cells + "</tr>")
    return "\n".join(line for line in [*lines, "</tbody></table></div>"] if line)


def facts(rows: Mapping[str, object]) -> str:
    """Return names and values, one per line; a value of None is left out."""
    lines = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(cell_text(value))}</td></tr>'
        for name, value in rows.items()
        if value is not None
    )
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """Return content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def cell_text(value: object) -> str:
    """Text of a table cell: a float with three decimals, None empty."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def shown(text: object, width: int = 26) -> str:
    """Escape text for a Plotly label and break it after `width` characters."""
    lines = textwrap.wrap(str(text), width) or [""]
    return "<br>".join(escape(line, quote=False) for line in lines)


def figure(name: str, title: str, traces: Sequence[Any], *, height: int = 320, **layout: Any) -> str:
    """Return a Plotly figure as a `<figure>`; `name` is its element id, `layout` updates Plotly's layout."""
    import plotly.graph_objects as go
    from plotly.io import to_html

    fig = go.Figure(list(traces))
    fig.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13},
        margin={"l": 56, "r": 12, "t": 8, "b": 44},
        height=height,
        dragmode=False,
        hoverlabel={"bgcolor": "#1e2329", "font": {"color": "#ffffff"}},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "yref": "paper"},
    )
    fig.update_xaxes(automargin=True, zeroline=False, fixedrange=True)
    fig.update_yaxes(automargin=True, zeroline=False, fixedrange=True)
    fig.update_layout(**layout)
    drawn = to_html(
        fig,
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_height=f"{height}px",
        config={"displayModeBar": False, "responsive": True},
    )
    return f'<figure>\n<figcaption>{escape(title)}</figcaption>\n<div class="plot">{drawn}</div>\n</figure>'
