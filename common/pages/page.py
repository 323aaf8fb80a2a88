"""A document of sections, tables and facts as one page of HTML, and its frame. No script runs in what is made here.

All text is plain and escaped here; plots come from `plots.py`. A page in a file holds its style and fetches nothing; a
served one (`common/web/`) has the same frame and links to it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

_SCROLL = '<div class="scroll" role="group" tabindex="0" aria-label="{}">'
"""What is wider than the screen is moved by the arrow keys, too."""
_ALONE = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{hash}'">
<style>{style}</style>"""


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it; left out of the page where there is none."""

    title: str
    body: str


@dataclass(frozen=True)
class Link:
    """Text of a table's cell that leads to another page of the same place."""

    text: str
    to: str


def style() -> str:
    """Return the style of every page."""
    return _asset("style.css")


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Return the whole document, for a file."""
    text = style()
    hashed = b64encode(sha256(text.encode()).digest()).decode()
    return framed(title, lead, sections, head=_ALONE.format(hash=hashed, style=text))


def framed(title: str, lead: str, sections: Iterable[Section], *, head: str, above: str = "") -> str:
    """Return the whole document with the HTML `head` in its head and `above` its title."""
    shown = named(sections)
    links = "\n".join(f'<li><a href="#{name}">{escape(one.title)}</a></li>' for name, one in shown.items())
    body = "\n".join(
        f'<section aria-labelledby="{name}">\n'
        f'<h2 id="{name}">{escape(one.title)}</h2>\n<div id="{name}-body">\n{one.body}\n</div>\n</section>'
        for name, one in shown.items()
    )
    return Template(_asset("page.html")).substitute(
        title=escape(title), lead=escape(lead), links=links, body=body, head=head, above=above
    )


def named(sections: Iterable[Section]) -> dict[str, Section]:
    """Return the sections that are shown by the ids of their headings, which follow from the titles."""
    shown: dict[str, Section] = {}
    for one in sections:
        if one.body:
            name = re.sub(r"[^a-z0-9]+", "-", f"section {one.title.lower()}").strip("-")
            shown[name if name not in shown else f"{name}-{len(shown) + 1}"] = one
    return shown


def _asset(name: str) -> str:
    return (files("common") / "pages" / "assets" / name).read_text(encoding="utf-8")


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
        first, *others = (_cell(value) for value in row)
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


def _cell(value: object) -> str:
    if isinstance(value, Link):
        return f'<a href="{escape(value.to)}">{escape(value.text)}</a>'
    return escape(cell_text(value))


def cell_text(value: object) -> str:
    """Text of a table cell: a float with three decimals, None empty."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
