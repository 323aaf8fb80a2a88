"""A budget cannot be had twice: a ledger that is gone or shorter is refused, and one registry has one ledger."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack, chdir
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from client.privacy.budget import claim_registry, open_ledger, require_ledger
from client.privacy.chain import ledger_folder
from client.privacy.claims import machine_folder
from client.privacy.ledger import Ledger
from client.site.anchor import ANCHOR, require_reaches
from client.site.config import load_site
from client.site.opened import reopened
from client.training.workplace import Workplace
from common.config import RunConfig
from common.errors import Code, FedReasonError
from tests.hospitals import asked, federation_of, lines, machine, private_run, refusal, restart, settle
from tests.privacy_checks import Check, on_broken
from tests.privacy_checks.ledger import CAP, release
from tests.small import make_small_model

Break = Callable[[Path], object]


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def small() -> Path:
    """Return the small model of the checks."""
    return make_small_model(Path(_folder().name))


def _run(name: str = "trial", federation: str = "sepsis") -> RunConfig:
    """Return a run whose releases take few patients: what they cost is all that counts here."""
    return private_run(small(), name, federation={"name": federation, "sampling_rate": 0.1})


def _without_ledger(site: Path) -> None:
    shutil.rmtree(ledger_folder(site))


def _without_state(site: Path) -> None:
    shutil.rmtree(site / "state")


def _older(site: Path) -> None:
    """Put back the ledger, and its mark, as they were after the first release."""
    shutil.rmtree(ledger_folder(site))
    shutil.copytree(site / "older", ledger_folder(site))


def _older_site(site: Path) -> None:
    """Put back the whole folder, but for what the machine knows."""
    _older(site)
    shutil.copy(site / "older.json", site / ANCHOR)


def _without_anchor(site: Path) -> None:
    """Remove what the folder knows of its ledger."""
    _without_ledger(site)
    (site / ANCHOR).unlink()


REMOVED: dict[str, Break] = {
    "rm -r state/ledger": _without_ledger,
    "rm -r state": _without_state,
    "an older ledger and mark": _older,
    "an older site folder": _older_site,
    "rm -r state/ledger ledger.json": _without_anchor,
}


def _spent(folder: Path) -> Path:
    """Return a site that released three times."""
    site = federation_of(folder, "amc", "snubh")[0]
    restart()
    for number in (1, 2, 3):
        if refusal(asked(site, _run(), number)) is not None:
            raise AssertionError("an honest task was refused")
        if number == 1:
            shutil.copytree(ledger_folder(site), site / "older")
            shutil.copy(site / ANCHOR, site / "older.json")
    return site


def check_removed(breaks: Break, again: bool) -> bool:
    """After three releases a ledger is put back or removed: no task is answered, nor does the site start."""
    with machine() as folder:
        site = _spent(folder)
        breaks(site)
        if again:
            restart()
        task = refusal(asked(site, _run("next"), 1))
        starts = _refused(lambda: require_ledger(site, load_site(site)))
        noticed = {int(Code.LEDGER_ROLLED_BACK), int(Code.LEDGER_OTHER)}
        return task in noticed and (starts in noticed or not again)


def _refused(work: Callable[[], object]) -> int | None:
    try:
        work()
    except FedReasonError as error:
        return int(error.code)
    return None


def _forgetful(work: Callable[[], bool]) -> bool:
    """Check with anchors that nobody reads."""
    with ExitStack() as patched:
        for module in ("client.privacy.ledger", "client.privacy.budget"):
            patched.enter_context(patch(f"{module}.read_anchor", lambda *_: None))
        patched.enter_context(patch("client.privacy.budget.require_unclaimed", lambda *_: None))
        patched.enter_context(patch("client.privacy.budget.claim", lambda *_: None))
        return work()


def _without_memory(work: Callable[[], bool]) -> bool:
    """Check in a process that does not know its head."""

    def reaches(heads: Any, known: Any, ledger: Path, seen_by: str) -> None:
        if seen_by != "this process":
            require_reaches(heads, known, ledger, seen_by)

    with patch("client.privacy.ledger.require_reaches", reaches):
        return work()


def _blind_machine(work: Callable[[], bool]) -> bool:
    """Check with a ledger whose anchor outside its site's folder nobody finds again."""
    with patch("client.privacy.budget.witnesses", lambda: machine_folder() / secrets.token_hex(4)):
        return work()


def _all_gone(site: Path) -> None:
    """Remove the ledger and whatever stands anywhere of how far it went."""
    _without_anchor(site)
    shutil.rmtree(machine_folder())


def check_second_folder() -> bool:
    """A second federation on the same registry, its path or a copy, is refused until it charges the first's ledger."""
    with machine() as folder:
        first = _spent(folder / "one")
        second, copied = federation_of(folder / "two", "berlin", "lyon", federation="other")
        settle(second, registry={"path": str(first / "registry.csv")})
        shutil.copy(first / "registry.csv", copied / "registry.csv")
        config = _run("second", "other")
        for site in (second, copied):
            if refusal(asked(site, config)) != int(Code.LEDGER_OTHER) or lines(first) != 3:
                return False
            if _refused(lambda site=site: require_ledger(site, load_site(site))) != int(Code.LEDGER_OTHER):
                return False
        for count, site in enumerate((second, copied), start=4):
            settle(site, ledger=str(first))
            restart()
            again = _run(site.name, "other")  # one ledger: an attempt is charged once
            if refusal(asked(site, again)) is not None or lines(first) != count:
                return False
            if ledger_folder(site).joinpath("ledger.jsonl").exists():
                return False
        return True


def _unclaimed() -> bool:
    with (
        patch("client.privacy.budget.claim", lambda *_: None),
        patch("client.privacy.budget.require_unclaimed", lambda *_: None),
    ):
        return check_second_folder()


def _by_path_alone() -> bool:
    def marks(config: Any) -> list[str]:
        return [f"path:{config.registry.path.resolve()}"]

    with patch("client.privacy.budget.marks_of", marks):
        return check_second_folder()


def check_looked_at_again() -> bool:
    """A registry that became one which another ledger counts is refused at every look, not at the first alone."""
    with machine() as world:
        amc = federation_of(world / "one", "amc", "snubh")[0]
        lyon = federation_of(world / "two", "berlin", "lyon", federation="other")[1]
        open_ledger(lyon, load_site(lyon))
        site = Workplace(amc)
        if site.ledger.head.sequence:
            return False
        shutil.copy(lyon / "registry.csv", amc / "registry.csv")
        return all(_refused(site.look_again) == int(Code.LEDGER_OTHER) for _ in range(2))


def _taken_first(site: Workplace) -> None:
    opened = reopened(site.folder, site._opened)
    if opened is not site._opened:
        site._opened = opened
        claim_registry(site.folder, site.config, site.ledger)


def check_database() -> bool:
    """Two folders on one database without a host in its URL, started from anywhere, are known to have one registry."""
    with machine() as world, patch.dict("os.environ", {"REGISTRY_URL": "postgresql:///icu"}):
        amc, snubh = federation_of(world / "one", "amc", "snubh")
        for site in (amc, snubh):
            settle(site, registry={"url_variable": "REGISTRY_URL", "query": "select 1"})
        with chdir(amc):
            claim_registry(amc, load_site(amc), Ledger.opened(amc))
        with chdir(snubh):
            second = _refused(lambda: claim_registry(snubh, load_site(snubh), Ledger.opened(snubh)))
        return second == int(Code.LEDGER_OTHER)


def _by_working_directory(url: str) -> list[str]:
    return [f"postgresql:{Path('icu').resolve()}"]


def check_takeover() -> bool:
    """A folder that has spent in a ledger of its own and then names another's: that one counts it, once.

    The second start finds all of it there.
    """
    with machine() as world:
        amc = federation_of(world / "one", "amc", "snubh")[0]
        berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
        own = Ledger.opened(berlin)
        for number in (1, 2):
            own.charge(release(number), cap=CAP)
        settle(berlin, ledger=str(amc))
        for _ in range(2):
            spent = open_ledger(berlin, load_site(berlin))
        return spent.head.sequence == 2 and spent.epsilon >= own.epsilon * (1 - 1e-9)


def _cheaper(entry: Any, **changes: Any) -> Any:
    return replace(entry, sigma_units=1000 * entry.sigma_units, **changes)


def _at_start(name: str) -> Callable[[], bool]:
    return partial(check_removed, REMOVED[name], True)


CHECKS = [
    *(
        Check(
            f"budget: {name}, then a new start",
            _at_start(name),
            {"no anchor is read": partial(_forgetful, _at_start(name))}
            | (
                {"none is kept outside the folder": partial(_blind_machine, _at_start(name))}
                if breaks is _older_site
                else {}
            ),
        )
        for name, breaks in REMOVED.items()
    ),
    Check(
        "budget: everything is removed while the process runs",
        partial(check_removed, _all_gone, False),
        {"the process does not know its head": partial(_without_memory, partial(check_removed, _all_gone, False))},
    ),
    Check(
        "budget: one registry has one ledger",
        check_second_folder,
        {"no ledger claims its registry": _unclaimed, "a copy is another registry": _by_path_alone},
    ),
    Check(
        "budget: a registry that becomes another ledger's",
        check_looked_at_again,
        {
            "taken before it is claimed": partial(
                on_broken, check_looked_at_again, "client.training.workplace.Workplace.look_again", _taken_first
            )
        },
    ),
    Check(
        "budget: a database without a host in its URL",
        check_database,
        {
            "known by where the program was started": partial(
                on_broken, check_database, "client.privacy.budget._database", _by_working_directory
            )
        },
    ),
    Check(
        "budget: what was spent goes along to another's ledger",
        check_takeover,
        {
            "it stays behind": partial(on_broken, check_takeover, "client.privacy.budget.take_over", lambda *_: None),
            "nothing tells that it was taken": partial(
                on_broken, check_takeover, "client.privacy.takeover.sum", lambda _: 0
            ),
            "it costs less there": partial(on_broken, check_takeover, "client.privacy.takeover.replace", _cheaper),
        },
    ),
]
