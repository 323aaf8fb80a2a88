"""The pictures of the guides, taken of real pages: `make screenshots`.

A picture is a name, a scene that serves the page, and where to look. Prints the bytes of each as one line of JSON. A
path of the machine that takes them is in none.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bench.deployment import free_port
from bench.result import print_result
from bench.stored import federation_of, stored
from common.web.accounts import Accounts
from server.dashboard.site import Site
from server.dashboard.watch import Shared
from server.reports.status import Status, site_tasks
from tests.browsing import CHROMIUM
from tests.common.web.served import served
from tests.small import small_config

LARGEST = 60_000
"""Bytes of a picture: the pages are to be read, and the repository is to stay small."""
Scene = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def federation(folder: Path) -> Iterator[str]:
    """Serve the coordinator's pages of a federation with a run under way; yields the link."""
    sites = ["amc", "smc", "snubh"]
    made = federation_of(folder, sites, free_port())
    shape = {"name": "small", "sites": 3, "quorum": 2, "rounds": 60, "deadline": 600.0}
    config = small_config(Path("none"), name="qwen", federation=shape)
    standing = stored(made.runs / "qwen", config, sites, 41)
    answered, now = {"amc": 61.0, "snubh": 74.0}, datetime.now(UTC)
    standing.tell(waiting_for=("smc",), answered=answered, seconds=83.0, bytes_up=55_400_000, bytes_down=83_100_000)
    standing.tell(contact=dict.fromkeys(sites, now))
    (made.folder / "configs").mkdir()
    shutil.copy("configs/qwen.toml", made.folder / "configs")
    site = Site(made, made.folder / "configs")
    site.watch.status = Shared(_all_well(site.watch.status()), 1.0)
    with served(site.pages(Accounts(made.folder / "accounts.json"), "t" * 40)) as link:
        yield link


def _all_well(status: Status) -> Callable[[], Status]:
    """Return the status as it were with services and sites there, which no picture starts."""
    (run,) = status.runs
    assert run.standing is not None
    tasks = site_tasks(run.name, run.standing, {})
    began = run.standing.since - timedelta(minutes=47)
    sites = [
        one.model_copy(update={"presence": "online", "since": began, "tasks": (tasks[one.site],)})
        for one in status.sites
    ]
    services = dict.fromkeys(status.services, True)
    runs = (run.model_copy(update={"served": True}),)
    changes = {"services": services, "sites": tuple(sites), "runs": runs, "coordinator": 4711, "roster_version": 1}
    return lambda: status.model_copy(update=changes)


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
    Picture("dashboard-phone", federation, "/runs/qwen", 380, 640, at="#reward", dark=True),
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
            view.goto(links[one.scene].partition("/enter")[0] + one.path)
            if one.at:
                view.locator(one.at).scroll_into_view_if_needed()
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
