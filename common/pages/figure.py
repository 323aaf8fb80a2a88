"""A page's figure as a file of its own."""

from __future__ import annotations

from importlib.resources import files


def standing(figure: str) -> str:
    """Return the drawing of a `<figure>` as SVG with its style, light or dark as the reader has it."""
    drawn = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
    opened = drawn.index(">") + 1
    head = drawn[:opened].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    style = (files("common") / "pages" / "assets" / "figure.css").read_text(encoding="utf-8")
    return f"{head}\n<style>\n{style}</style>\n{drawn[opened:]}\n"
