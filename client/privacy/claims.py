"""Which ledger counts what is spent on a registry, by the machine's own record: one registry, one ledger.

A second site folder for the same records would have a budget of its own, and its patients would pay twice. The record
is kept for the user who runs sites, outside their folders, so that neither a new folder nor a lost one begins afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from client.site.anchor import ANCHOR
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.toml import Strict

_VARIABLE = "FEDREASON_STATE"
_PATIENCE = 15.0


class Claim(Strict):
    """Whose records they are: the ledger's name, and the site folder that it lies in."""

    ledger: str
    site: Path


def machine_folder() -> Path:
    """Folder of what is known of all sites of this user on this machine: FEDREASON_STATE, else ~/.local/state.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE where the variable names no one place: from another working directory it would be another record,
        in which nothing was ever spent.
    """
    said = os.environ.get(_VARIABLE) or "~/.local/state/fedreason"
    try:
        place = Path(said).expanduser()
    except RuntimeError:
        place = Path(said)
    if not place.is_absolute():
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{_VARIABLE} = {said} depends on where the program is started: what was spent would not be found again.",
            "Give the folder in full, beginning with /.",
        )
    return place


def witnesses() -> Path:
    """Folder of the second anchor of every ledger."""
    return machine_folder() / "ledgers"


def claim(marks: Iterable[str], mine: Claim) -> None:
    """Write down that a ledger counts what is spent on the records with these marks.

    Parameters
    ----------
    marks
        What the records are recognised by: where they are, and what they are.

    Raises
    ------
    FedReasonError
        LEDGER_OTHER where another ledger counts it; DISK_FULL where the record cannot be written.
    """
    marks = list(marks)
    place = machine_folder() / "registries"
    try:
        private_folder(place)
        with FileLock(place / "lock", timeout=_PATIENCE):
            require_unclaimed(marks, mine.ledger)
            for mark in marks:
                if _read(_path(mark)) != mine:
                    write_private(_path(mark), mine.model_dump_json().encode())
    except Timeout:
        raise FedReasonError(Code.SITE_RUNNING, f"Another process holds {place}.", "End that process.") from None
    except OSError as error:
        raise FedReasonError(
            Code.DISK_FULL,
            f"{place} cannot be written ({type(error).__name__}).",
            f"It says which ledger counts for which registry. Name another folder by {_VARIABLE}.",
        ) from None


def require_unclaimed(marks: Iterable[str], ledger: str | None) -> None:
    """Refuse records that another ledger counts; `ledger` is None where the site has lost the name of its own.

    Raises
    ------
    FedReasonError
        LEDGER_OTHER, naming that ledger's site folder.
    """
    for mark in marks:
        found = _read(_path(mark))
        if found is not None and found.ledger != ledger:
            raise _counted_by(found, _path(mark))


def _counted_by(found: Claim, record: Path) -> FedReasonError:
    """Return the refusal that leads to the ledger that counts, also where its folder has been moved since."""
    gone = "Where that site is gone for good, docs/hospital.md says how to go on."
    if not _moved(found):
        return FedReasonError(
            Code.LEDGER_OTHER,
            f"What is spent on this registry is counted by the ledger of {found.site} ({record}).",
            f'Say `ledger = "{found.site}"` in site.toml, so that one ledger counts it all. {gone}',
        )
    return FedReasonError(
        Code.LEDGER_OTHER,
        f"What is spent on this registry is counted by ledger {found.ledger[:12]}, which is no longer in {found.site} "
        f"({record}).",
        f"Find the folder that it was moved to, in whose {ANCHOR} that name stands, and say it as `ledger` in "
        f"site.toml; where it is this site's own, put its {ANCHOR} back. {gone}",
    )


def _moved(found: Claim) -> bool:
    """Whether another folder stands in its place; one that cannot be seen from here may be where it was."""
    try:
        return found.site.is_dir() and found.ledger not in (found.site / ANCHOR).read_text(errors="replace")
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _path(mark: str) -> Path:
    return machine_folder() / "registries" / f"{hashlib.sha256(mark.encode()).hexdigest()}.json"


def _read(path: Path) -> Claim | None:
    try:
        return Claim.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FedReasonError(
            Code.LEDGER_OTHER,
            f"{path} cannot be read ({type(error).__name__}), so which ledger counts for this registry is not known.",
            "Put it back, or take it away once you know that no other site folder uses this registry.",
        ) from None
