"""The pictures of the guides, taken of real pages: `make screenshots`.

A picture is a name, a scene that serves the page, and where to look. Prints the bytes of each as one line of JSON. A
path of the machine that takes them is in none.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.result import print_result
from bench.scenes import PASSWORD, RATER, Scene, federation, hospital, review
from tests.browsing import CHROMIUM

LARGEST = 60_000
"""Bytes of a picture: the pages are to be read, and the repository is to stay small."""


@dataclass(frozen=True)
class Picture:
    """A page of a scene, and how much of it; `dark` for those who prefer that."""

    name: str
    scene: Scene
    path: str
    width: int = 820
    height: int = 640
    at: str = ""
    dark: bool = False


PICTURES = (
    Picture("dashboard-federation", federation, "/"),
    Picture("dashboard-run", federation, "/runs/qwen", height=600),
    Picture("dashboard-stages", federation, "/runs/qwen", height=440, at="#section-seconds-and-bytes-by-stage"),
    Picture("dashboard-phone", federation, "/runs/qwen", 380, 640, at="#section-reward-by-round", dark=True),
    Picture("site-overview", hospital, "/", height=560),
    Picture("site-budget", hospital, "/ledger", height=560, at="#section-curve"),
    Picture("site-signature", hospital, "/signature", height=600, at="#section-privacy-budget"),
    Picture("review-case", review, "/case/1", height=590, at="#section-the-two-answers"),
)


def main(out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/pictures")) -> None:
    """Take every picture anew."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder, ExitStack() as scenes:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        links: dict[Scene, str] = {}
        for one in PICTURES:
            if one.scene not in links:
                place = Path(folder) / str(len(links))
                links[one.scene] = scenes.enter_context(one.scene(place))
            view = browser.new_page(
                viewport={"width": one.width, "height": one.height}, color_scheme="dark" if one.dark else "light"
            )
            view.goto(links[one.scene])
            if view.get_by_label("Password").count():
                view.get_by_label("Name").fill(RATER)
                view.get_by_label("Password").fill(PASSWORD)
                view.get_by_role("button", name="Come in").click()
            view.goto(links[one.scene].partition("/enter")[0] + one.path)
            if view.locator("#live").count():
                view.get_by_text("Live", exact=True).wait_for()
            if one.at:
                view.locator(one.at).evaluate("place => place.scrollIntoView()")
            taken[one.name] = len(view.screenshot(path=out / f"{one.name}.png"))
            view.close()
        browser.close()
    too_large = [name for name, size in taken.items() if size > LARGEST]
    if too_large:
        print(f"larger than {LARGEST} bytes: {', '.join(too_large)}", file=sys.stderr)
    print_result(taken)
    sys.exit(bool(too_large))


if __name__ == "__main__":
    typer.run(main)
