"""A table's cells are text, and so is a link in one."""

from __future__ import annotations

from common.pages.page import Link, html_table

HOSTILE = '"><script>alert(1)</script>'


def test_a_cell_and_a_link_in_one_are_text() -> None:
    shown = html_table(["run", "state"], [(Link(HOSTILE, f"/runs/{HOSTILE}"), HOSTILE)])
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;") == 3
    assert '<th scope="row"><a href="/runs/&quot;&gt;' in shown
