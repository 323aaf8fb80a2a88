"""A blinded review is blind, each rater's own and of held-out patients, and what leaves of it stands on ten of them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from client.review import make, pages, report, store
from client.review.figures import figures
from client.review.order import Turn, turns
from client.review.pages import Desk
from client.review.scale import SIDES
from client.review.store import ReviewStore
from client.site.config import load_site
from client.site.split import kept
from common.errors import FedReasonError
from common.model.exported import Asked
from common.questions.question import Patient
from common.web.accounts import Accounts
from common.web.sessions import Session
from common.web.visit import Document, Visit
from tests.privacy_checks import Check, on_broken
from tests.reviewed import ready, site_of

CASES = 8
RATERS = tuple(f"rater{number}" for number in range(24))


def _site(name: str) -> Path:
    return site_of(Path(name) / "amc", patients=1)


def _desk(opened: ReviewStore) -> Desk:
    return Desk(opened, Accounts(opened.path.with_name("accounts.json")))


def _visit(rater: str, place: int, /, **form: str) -> Visit:
    return Visit(Session(rater, 1e18, form_token="token"), {"place": str(place)}, {}, form)


def _shown(desk: Desk, rater: str, place: int) -> str:
    answer = desk.case(_visit(rater, place))
    assert isinstance(answer, Document)
    return "".join([answer.title, answer.lead, *(f"{one.title} {one.body}" for one in answer.sections)])


def check_blind() -> bool:
    """Exchanged models change the answers on a page and not one other byte, for every rater and case."""
    found = []
    for swapped in (False, True):
        with TemporaryDirectory() as name:
            site = _site(name)
            ready(site, CASES, swapped=swapped)
            with ReviewStore.opened(site, "review", required=False) as opened:
                desk = _desk(opened)
                found.append([_shown(desk, rater, place) for rater in RATERS[:3] for place in range(1, CASES + 1)])
    masked = [[re.sub(r"by answer [MZ]", "by answer", text) for text in texts] for texts in found]
    named = any(model in text for texts in found for text in texts for model in ("ZEPHYR", "MISTRAL"))
    return masked[0] == masked[1] and found[0] != found[1] and not named


def check_drawn() -> bool:
    """For no case is answer 1 of the same model to all raters; each meets either model first equally often.

    Of another secret the order is another one: whoever reads this code cannot compute it.
    """
    orders = {rater: pages.turns("one", rater, range(1, CASES + 1)) for rater in RATERS}
    balanced = all(sum(turn.left == "first" for turn in order) == CASES // 2 for order in orders.values())
    sides = [{turn.left for order in orders.values() for turn in order if turn.case == case} for case in range(1, 9)]
    other = {rater: pages.turns("another", rater, range(1, CASES + 1)) for rater in RATERS}
    return balanced and all(side == set(SIDES) for side in sides) and other != orders


def _always_first(secret: str, rater: str, cases: Any) -> list[Turn]:
    return [Turn(turn.case, "first") for turn in turns(secret, rater, cases)]


def _same_for_all(secret: str, rater: str, cases: Any) -> list[Turn]:
    return turns(secret, "", cases)


def _without_secret(secret: str, rater: str, cases: Any) -> list[Turn]:
    return turns("", rater, cases)


def _with_name(case: Callable[[Desk, Visit], Document]) -> Callable[[Desk, Visit], Document]:
    """Tell the model in a place that nobody sees."""

    def shown(self: Desk, visit: Visit) -> Document:
        answer, turn = case(self, visit), self._asked_for(visit)[1]
        review = self._store.review()
        assert review is not None
        answer.sections[0].__dict__["body"] += f'<input type="hidden" value="{getattr(review, turn.left)}">'
        return answer

    return shown


def _with_order(case: Callable[[Desk, Visit], Document]) -> Callable[[Desk, Visit], Document]:
    """Put the answers in the order of the command, whatever was drawn."""

    def shown(self: Desk, visit: Visit) -> Document:
        answer, review = case(self, visit), self._store.review()
        assert review is not None
        answer.sections[1].__dict__["body"] += f'<div id="{review.first[:1]}"></div>'
        return answer

    return shown


def check_own() -> bool:
    """Whatever a form says beside the scale, it changes the rating of whoever sent it, of the case of the address."""
    with TemporaryDirectory() as name:
        site = _site(name)
        ready(site, CASES)
        with ReviewStore.opened(site, "review", required=False) as opened:
            desk = _desk(opened)
            desk.rated(_visit("kim", 1, overall="2", comment="mine"))
            before = [(row.case, row.answers, row.comment) for row in opened.ratings()]
            for place in range(1, CASES + 1):
                more = {"rater": "kim", "user": "kim", "case": str(before[0][0])}
                desk.rated(_visit("lee", place, overall="-1", comment="other", **more))
            after = [(row.case, row.answers, row.comment) for row in opened.ratings("kim")]
            seen = any("mine" in _shown(desk, "lee", place) for place in range(1, CASES + 1))
            return before == after and not seen and len(opened.ratings("lee")) == CASES


def _rated_for(self: Desk, visit: Visit) -> Any:
    visit.session.user = visit.form.get("rater", visit.session.user)
    return _RATED(self, visit)


_RATED = Desk.rated


def check_unseen() -> bool:
    """Whoever one of the two runs trained on is in no case, nor is who opted out."""
    with TemporaryDirectory() as name:
        site = site_of(Path(name) / "amc", patients=60)
        models: Any = [SimpleNamespace(asked=Asked(view="core", held_out=0.5, federation=of)) for of in ("x", "y")]
        try:
            everyone = {one.id for one in make.unseen(site, load_site(site), models)}
            gone = min(everyone)
            (site / "excluded.txt").write_text(f"{gone}\n")
            found = {one.id for one in make.unseen(site, load_site(site), models)}
        except FedReasonError:
            return False
    return found == everyone - {gone} and all(kept(one, 0.5, key) for one in everyone for key in ("x", "y"))


def _everybody(patient: str, share: float, key: str) -> bool:
    return True


def _first_run_alone(patient: str, share: float, key: str) -> bool:
    return key != "x" or kept(patient, share, key)


def _whoever_opted_out(patients: list[Patient], *_: object, **__: object) -> list[Patient]:
    return list(patients)


def _summary(*, cases: int) -> str | None:
    """Summary of a review in which so many cases were rated by three; None where none leaves."""
    with TemporaryDirectory() as name:
        site = _site(name)
        ready(site, 30)
        with ReviewStore.opened(site, "review", required=False) as opened:
            for case in range(1, cases + 1):
                for rater in RATERS[:3]:
                    axes = {"overall": 1, **({"therapy": -1} if case <= 9 else {})}
                    opened.rate(case, rater, "first", axes, "P7 said 4711")
            try:
                return report.summary(figures(opened))
            except FedReasonError:
                return None


def check_summary() -> bool:
    """No summary of nine patients leaves, no axis or kind of so few stands in one, and no rater, comment or case."""
    few, kinds, many = (_summary(cases=cases) for cases in (9, 19, 30))
    if few is not None or kinds is None or many is None:
        return False
    counts = [int(number) for text in (kinds, many) for number in re.findall(r'"(?:patients|ratings)": (\d+)', text)]
    told = "numeric" in many and "numeric" not in kinds and "categorical" not in kinds
    return told and min(counts) >= 10 and not re.search(r"4711|rater\d|therapy|item|P\d", kinds + many)


def check_private() -> bool:
    """What a review writes can be read by its owner alone, whatever the process would allow."""
    before = os.umask(0o022)
    try:
        with TemporaryDirectory() as name:
            site = _site(name)
            ready(site, CASES)
            made = stat.S_IMODE((site / "state" / "review" / "review.sqlite").stat().st_mode)
            with ReviewStore.opened(site, "review", required=False) as opened:
                opened.rate(1, "kim", "first", {"overall": 1}, "")
                report.write(site / "ratings.csv", report.ratings_csv(opened))
            files = [site / "ratings.csv", *(site / "state" / "review").iterdir()]
            modes = {made, *(stat.S_IMODE(path.stat().st_mode) for path in files)}
            return len(files) == 3 and modes == {0o600}
    finally:
        os.umask(before)


def _openly(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class _OpenFiles:
    """The module `os`, whose files are for everybody."""

    O_CREAT, O_RDWR, close = os.O_CREAT, os.O_RDWR, staticmethod(os.close)

    @staticmethod
    def open(path: Path, flags: int, _: int) -> int:
        return os.open(path, flags, 0o644)


def check_erased() -> bool:
    """Once a patient opts out, nothing of their case is in the file any more."""
    with TemporaryDirectory() as name:
        site = _site(name)
        ready(site, CASES)
        with ReviewStore.opened(site, "review", required=False) as opened:
            opened.rate(3, "kim", "first", {"overall": 1}, "comment 4711")
        (site / "excluded.txt").write_text("P3\n")
        with ReviewStore.opened(site, "review", required=False) as opened:
            path = opened.path
        held = path.read_bytes()
        return not any(part in held for part in (b"4711", b"Pulse: 63", b"Because. 3 by"))


def _left_on_disk(connection: Any, _: object) -> None:
    connection.execute("PRAGMA secure_delete=OFF")


CHECKS = [
    Check(
        "review: blind",
        check_blind,
        {
            "the name in a hidden field": lambda: _patched(check_blind, Desk, "case", _with_name(Desk.case)),  # type: ignore[arg-type]
            "an id that tells the model": lambda: _patched(check_blind, Desk, "case", _with_order(Desk.case)),  # type: ignore[arg-type]
        },
    ),
    Check(
        "review: drawn",
        check_drawn,
        {
            "the first model always on the left": partial(
                on_broken, check_drawn, "client.review.pages.turns", _always_first
            ),
            "one order for all raters": partial(on_broken, check_drawn, "client.review.pages.turns", _same_for_all),
            "an order that the code tells": partial(
                on_broken, check_drawn, "client.review.pages.turns", _without_secret
            ),
        },
    ),
    Check(
        "review: own ratings",
        check_own,
        {
            "whoever the form names": lambda: _patched(check_own, Desk, "rated", _rated_for),
        },
    ),
    Check(
        "review: held-out patients",
        check_unseen,
        {
            "everybody is asked": partial(on_broken, check_unseen, "client.review.make.kept", _everybody),
            "held out in one of the runs": partial(
                on_broken, check_unseen, "client.review.make.kept", _first_run_alone
            ),
            "who opted out too": partial(
                on_broken, check_unseen, "client.review.make.without_excluded", _whoever_opted_out
            ),
        },
    ),
    Check(
        "review: summary",
        check_summary,
        {
            "of nine patients": lambda: _patched(check_summary, report, "FEWEST", 9),
            "of any number": lambda: _patched(check_summary, report, "FEWEST", 0),
        },
    ),
    Check(
        "review: files",
        check_private,
        {
            "written as any file": partial(on_broken, check_private, "client.review.report.write_private", _openly),
            "a store for everybody": lambda: _patched(check_private, store, "os", _OpenFiles),
        },
    ),
    Check(
        "review: opt-outs",
        check_erased,
        {
            "left in the store": lambda: _patched(check_erased, ReviewStore, "withdraw", lambda self, gone: 0),
            "unlinked and left on the disk": lambda: _patched(check_erased, store, "_prepare", _left_on_disk),
        },
    ),
]


def _patched(check: Callable[[], bool], of: object, name: str, broken: object) -> bool:
    with patch.object(of, name, broken):
        return check()
