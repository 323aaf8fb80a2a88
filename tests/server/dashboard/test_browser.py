"""The coordinator's pages in a real browser: a run is watched to its end, and no page has a barrier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error
from flwr.supercore.task_identity import TaskIdentity

from bench.stored import stored
from common.errors import Code
from common.messages.kinds import Reply, Task
from server.provisioning.federation import Federation
from server.rounds.standing import FILE, StandingFile
from tests.browsing import DESK, PHONE, TWICE, barriers, beyond_the_screen, browser, needs_browser, told_by, viewed
from tests.clock import Clock
from tests.federations import made
from tests.scripted_grid import ScriptedGrid, federation_of, run
from tests.server.dashboard.scene import PASSWORD, Desk, opened, run_of
from tests.server.rounds.faults.scene import make_federation, nodes
from tests.small import write_config

__all__ = ["browser"]
pytestmark = needs_browser
HOSTILE = "<img src=x onerror=alert(1)>"
LONG = 60.0


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A federation with a configuration, a run under way of many sites, and one with a hostile name in it."""
    found = made(tmp_path, ["amc", "snubh"], name="fed").federation
    sites = [f"site{number:02d}" for number in range(12)]
    stored(found.runs / "trial", run_of("trial", 12), sites, 70)
    (found.runs / "hostile").mkdir()
    told = StandingFile(found.runs / "hostile" / FILE, 5)
    left_out = {HOSTILE: int(Code.POLICY_REFUSED)}
    told.tell(state="paused", round=2, waiting_for=(HOSTILE,), refused=left_out, collapse=(HOSTILE,))
    write_config(tmp_path, Path("none"), name="fresh", federation={"name": "fed"}).rename(tmp_path / "fresh.toml")
    (found.folder / "configs").mkdir()
    (tmp_path / "fresh.toml").rename(found.folder / "configs" / "fresh.toml")
    return found


@pytest.fixture
def desk(federation: Federation) -> Iterator[Desk]:
    with opened(federation) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, TWICE], ids=["phone", "desk", "twice as large"])
def test_no_page_has_a_barrier_and_each_fits_the_screen(
    browser: Any, desk: Desk, size: dict[str, int], scheme: str
) -> None:
    with viewed(browser, size, scheme) as view:
        view.goto(desk.link)
        desk.site.jobs.begin("abort", HOSTILE, "kim", ["abort", "none"])
        runs = [f"/runs/{name}" for name in ("trial", "hostile", "trial/round", "hostile/round", "trial/abort")]
        for path in ("/", *runs, "/stop", "/actions/1", "/errors", "/errors/832"):
            view.goto(f"{desk.base}{path}")
            assert (path, barriers(view), beyond_the_screen(view)) == (path, [], 0)


def test_one_comes_in_asks_and_aborts_by_the_keyboard_alone(browser: Any, desk: Desk) -> None:
    view = browser.new_page(viewport=DESK)
    told = told_by(view)
    view.goto(desk.base)
    view.get_by_label("Name").focus()
    view.keyboard.type("kim")
    view.keyboard.press("Tab")
    view.keyboard.type(PASSWORD)
    view.keyboard.press("Enter")
    view.get_by_role("heading", name="Federation fed").wait_for()
    view.get_by_role("button", name="Ask").focus()
    view.keyboard.press("Enter")
    view.get_by_text("E903").wait_for()
    view.get_by_text("exit status 1").wait_for()
    view.goto(f"{desk.base}/runs/trial")
    view.get_by_role("link", name="Abort this run").focus()
    view.keyboard.press("Enter")
    view.get_by_role("button", name="Abort trial").focus()
    view.keyboard.press("Enter")
    view.get_by_text("exit status 1").wait_for()
    assert [line for line in desk.told if line.startswith("kim")] == ["kim: ask fresh", "kim: abort trial"]
    assert told == []
    view.close()


def test_a_wrong_password_lets_nobody_in_and_many_are_not_heard(browser: Any, desk: Desk) -> None:
    view = browser.new_page(viewport=DESK)
    view.goto(f"{desk.base}/runs/trial")
    for attempt in range(6):
        view.get_by_label("Name").fill("kim")
        view.get_by_label("Password").fill("none of the right words")
        view.get_by_role("button", name="Come in").click()
        view.get_by_role("alert").get_by_text("not right" if attempt < 5 else "Too many attempts").wait_for()
    view.goto(f"{desk.base}/runs/trial")
    assert view.get_by_text("trial").count() == 0
    view.close()


class Watched:
    """A run of four rounds in a thread, which stops for a look in the rounds 2 to 4; south goes and comes back."""

    def __init__(self, federation: Federation) -> None:
        self.north, self.south, self.west = nodes()
        self.reached = {number: threading.Event() for number in (2, 3, 4)}
        self.go_on = {number: threading.Event() for number in (1, 2, 3, 4)}
        self._config = federation_of(run_of("watched"), rounds=4)
        self._federation = federation
        self._answer, self.north.handle = self.north.handle, self._held
        self.thread = threading.Thread(target=self._run)
        self.failure: BaseException | None = None

    def _held(self, kind: str, task: Task) -> Reply | Error | None:
        if kind == "train" and task.round in self.reached and not self.reached[task.round].is_set():
            if task.round == 2:
                self.south.die()
            self.reached[task.round].set()
            assert self.go_on[task.round].wait(LONG)
            if task.round == 3:
                self.south.come_back()
        return self._answer(kind, task)

    def _run(self) -> None:
        assert self.go_on[1].wait(LONG)
        try:
            grid = ScriptedGrid(self.north, self.south, self.west)
            run(self._config, grid, self._federation.runs / "watched", self._federation)
        except BaseException as error:
            self.failure = error


def test_a_run_is_watched_live_from_first_to_last_round_while_a_site_goes_and_comes_back(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds are the real ones; only the sites are scripted, and time passes where the run waits."""
    clock = Clock()
    for module in ("server.rounds.grid", "server.rounds.attendance", "tests.scripted_grid"):
        monkeypatch.setattr(f"{module}.time", clock)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    federation = make_federation(tmp_path / "coordinator")
    watched = Watched(federation)
    watched.thread.start()
    with opened(federation) as desk:
        view = browser.new_page(viewport=DESK)
        told = told_by(view)
        view.goto(desk.link)
        view.get_by_text("No run yet.").wait_for()
        watched.go_on[1].set()
        view.get_by_role("link", name="watched").click()
        view.get_by_text("Live", exact=True).wait_for()
        assert watched.reached[2].wait(LONG)
        view.get_by_text("2 of 4").wait_for()
        assert view.locator("#refusals").count() == 0
        watched.go_on[2].set()
        assert watched.reached[3].wait(LONG)
        view.get_by_text("3 of 4").wait_for()
        view.locator("#section-refusals-body").get_by_text("E507 RUN_ABSENT").wait_for()
        watched.go_on[3].set()
        assert watched.reached[4].wait(LONG)
        view.get_by_text("4 of 4").wait_for()
        watched.go_on[4].set()
        view.locator("#section-how-it-stands-body").get_by_text("finished").wait_for()
        rows = view.locator("#section-who-took-part-body tbody tr").all_inner_texts()
        assert [row.split() for row in rows] == [
            ["north", "4", "1", "4", "0"],
            ["south", "3", "1", "4", "1"],
            ["west", "4", "1", "4", "0"],
        ]
        assert told == []
        view.close()
    watched.thread.join(LONG)
    assert watched.failure is None
