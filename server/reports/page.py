"""Pieces of a self-contained HTML page: sections, tables, facts. Nothing is fetched from anywhere, and no script runs.

All text is plain and escaped here; plots come from `plots.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

_SCROLL = '<div class="scroll" role="group" tabindex="0" aria-label="{}">'
"""What is wider than the screen is moved by the arrow keys, too."""


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    body: str


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Return the whole document."""
    template = Template((files("server") / "templates" / "report.html").read_text(encoding="utf-8"))
    shown = [(f"section-{i}", one) for i, one in enumerate((one for one in sections if one.body), start=1)]
    links = "\n".join(f'<li><a href="#{name}">{escape(one.title)}</a></li>' for name, one in shown)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{escape(one.title)}</h2>\n{one.body}\n</section>'
        for name, one in shown
    )
    return template.substitute(title=escape(title), lead=escape(lead), links=links, body=body)


def paragraph(text: str, kind: str = "") -> str:
    """Return plain text as a paragraph; `kind` is "note" for an aside."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", kinds: Mapping[int, str] | None = None
) -> str:
    """Return a table with a row heading in the first column; `kinds` marks rows by number as "main" or "sub"."""
    label = escape(caption or ", ".join(filter(None, head)))
    lines = [paragraph(caption, "note") if caption else "", f"{_SCROLL.format(label)}<table>", "<thead><tr>"]
    lines += [f'<th scope="col">{escape(column)}</th>' if column else "<td></td>" for column in head]
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
    return f'{_SCROLL.format("Facts")}<table class="facts"><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """Return content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def cell_text(value: object) -> str:
    """Text of a table cell: a float with three decimals, None empty."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
