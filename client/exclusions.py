"""Patients who opted out: `excluded.txt` of the site folder, one identifier a line, looked at anew for every task.

A list that cannot be read refuses the task: nobody is trained on for want of a list. Its content is never shown, only
counted, and only in the site's own log.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Code, FedReasonError
from common.logs import logger

if TYPE_CHECKING:
    from common.questions.question import Patient

EXCLUSIONS_FILE = "excluded.txt"

_log = logger("site")
_told: dict[Path, tuple[int, int]] = {}


def read_exclusions(folder: Path, *, required: bool = False) -> frozenset[str]:
    """Return the identifiers of those who opted out.

    Parameters
    ----------
    required
        Whether a list that does not exist is refused, as at a hospital, or empty, as in a simulation.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where the list cannot be read, REGISTRY_ENCODING where it is not UTF-8.
    """
    return frozenset().union(*_lines(folder / EXCLUSIONS_FILE, required))


def without_excluded(patients: Iterable[Patient], folder: Path, *, required: bool = False) -> list[Patient]:
    """Return the patients who have not opted out; how many have, the log says whenever that changes.

    Raises
    ------
    FedReasonError
        Every refusal of `read_exclusions`.
    """
    lines = _lines(folder / EXCLUSIONS_FILE, required)
    excluded: frozenset[str] = frozenset().union(*lines)
    everyone = list(patients)
    kept = [patient for patient in everyone if patient.id not in excluded]
    gone = {patient.id for patient in everyone} & excluded
    unknown = sum(not line & gone for line in lines)
    if _told.get(folder, (0, 0)) != (len(gone), unknown):
        _told[folder] = (len(gone), unknown)
        _log.info("%s: %d patients opted out and are left out", EXCLUSIONS_FILE, len(gone))
        if unknown:
            _log.warning("%s: %d lines name nobody in the registry", EXCLUSIONS_FILE, unknown)
    return kept


def _lines(path: Path, required: bool) -> tuple[frozenset[str], ...]:
    try:
        state = path.stat()
        return _read(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except FileNotFoundError:
        if not required:
            return ()
        fix = "Put the list of patients who opted out back. Where nobody did, make it an empty file."
        raise FedReasonError(Code.REGISTRY_MISSING, f"{path} does not exist.", fix) from None
    except UnicodeDecodeError as error:
        found = f"{path} is not UTF-8: byte {error.start} cannot be decoded."
        raise FedReasonError(Code.REGISTRY_ENCODING, found, "Save the list again as UTF-8.") from None
    except OSError as error:
        found = f"{path} cannot be read ({type(error).__name__}), so who opted out is not known."
        raise FedReasonError(Code.REGISTRY_MISSING, found, "It must be a readable file.") from None


@lru_cache(maxsize=16)
def _read(path: Path, *state: int) -> tuple[frozenset[str], ...]:
    """Return the identifiers of the file in this state, by line."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return tuple(_meant(line) for line in lines if line and not line.startswith("#"))


def _meant(line: str) -> frozenset[str]:
    """Return what a line may mean: with or without what follows a `#`, with or without quotes.

    Better one identifier too many, which hardly is another patient's, than training on someone who opted out.
    """
    forms = {line, line.split("#", 1)[0].strip()}
    return frozenset(forms | {form.strip("\"'").strip() for form in forms}) - {""}
