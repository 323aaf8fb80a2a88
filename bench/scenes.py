"""What the pictures of the guides show: a federation, a hospital and a review, made up and served as they would be.

A scene takes an empty folder and yields the link by which a browser comes in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from bench.deployment import free_port
from bench.stored import federation_of, stored
from client.dashboard.site import pages
from client.preview.questions import previews
from client.review.cli import accounts_of
from client.review.pages import Desk
from client.review.store import CaseRow, ReviewRow, ReviewStore
from client.site.stage import Stage
from common.questions.question import Question
from common.web.accounts import Accounts
from common.web.app import Pages
from server.dashboard.site import Site
from server.dashboard.watch import Shared
from server.reports.status import Status, site_tasks
from tests.client.dashboard import scene
from tests.common.web.served import served
from tests.reviewed import site_of
from tests.small import small_config

Scene = Callable[[Path], AbstractContextManager[str]]
RATER, PASSWORD = "kim", "four plain random words"
"""Who comes in where no link is enough."""
_ANSWERS = (
    "The focus is the lung, and the infection was acquired in the community. Pneumococcus is the most frequent cause "
    "of such a pneumonia; the raised lactate speaks for a severe one. \\boxed{E}",
    "The patient is 80 years old and the lactate is raised. Old patients are often infected from the bowel. \\boxed{C}",
)


@contextmanager
def federation(folder: Path) -> Iterator[str]:
    """Serve the coordinator's pages of a federation with a run under way."""
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


@contextmanager
def hospital(folder: Path) -> Iterator[str]:
    """Serve the pages of a site in the middle of a private run, with another one planned."""
    with patch.dict(os.environ, {"FEDREASON_STATE": str(folder / "machine")}):
        site = scene.hospital(folder / "hospital", rounds=24, cap=8.0)
        scene.at_work(site, "round 25", 25).stage(Stage.SAMPLING)
        with served(pages(site)) as link:
            yield link


@contextmanager
def review(folder: Path) -> Iterator[str]:
    """Serve a review, at the door where raters come in."""
    site = site_of(folder / "amc")
    found = previews(site, item="pathogen", count=1, view="full", seed=1)[0].asked
    assert isinstance(found, Question)
    case = CaseRow(
        number=1,
        patient=found.patient,
        kind=found.kind,
        item=found.item,
        record=list(found.record),
        text=found.text,
        choices=list(found.choices),
        truth=found.truth,
        withdrawn=False,
    )
    with ReviewStore.made(site, "review") as store:
        store.begin(ReviewRow(id=1, claim={}, first="A", second="B", secret="0" * 32), [case])
        for side, said in zip(("first", "second"), _ANSWERS, strict=True):
            store.answered(side, {1: said})
    accounts = accounts_of(site)
    accounts.add(RATER, PASSWORD)
    with ReviewStore.opened(site, "review", required=False) as store:
        desk = Pages("FedReason review", Desk(store, accounts).places, menu=[("Cases", "/")], accounts=accounts)
        with served(desk) as link:
            yield link.partition("?")[0]
