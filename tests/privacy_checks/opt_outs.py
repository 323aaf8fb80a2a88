"""Whoever opted out is not trained on, however the line is written; one that names nobody stops the site."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from client.site import exclusions
from client.site.exclusions import EXCLUSIONS_FILE, OptedOut, without_excluded
from common.errors import Code, FedReasonError
from common.questions.question import Patient
from tests.privacy_checks import Check

Use = Callable[[list[Patient], Path], list[Patient]]
"""Whom a site trains on, of its patients; raises where it trains on nobody."""

PATIENTS = [Patient(identifier, {}) for identifier in ("123", "124", "P7", "P8")]

NAMED = {"123": "123", "00123": "123", "124.0": "124", "p7": "P7", '"P8"': "P8"}
"""How a line is written, and whom it names."""
NOBODY = ("P9", "P9\n123", "123\nP9", "0", "7", "P", "124.5", "1.24E+15")
"""Lists of which some line names nobody."""
COLUMNS = {"id;mrn\n123;P7": {"123", "p7"}, "mrn;id\nP8;124": {"124", "p8"}, "nr;id\n1;123": {"123"}}
"""Lists with headings, beside a registry whose patient is `id`, and whom they name."""


def check_opt_outs(use: Use) -> bool:
    """Who is named is left out and nobody else is; where a line names nobody, nobody is used."""
    return (
        all(_used(use, text) == {p.id for p in PATIENTS} - {gone} for text, gone in NAMED.items())
        and not any(_used(use, text) for text in NOBODY)
        and all(
            {p.id.lower() for p in PATIENTS} - gone == {*map(str.lower, _used(use, text))}
            for text, gone in COLUMNS.items()
        )
    )


def _used(use: Use, listed: str) -> set[str]:
    with TemporaryDirectory() as name:
        (Path(name) / EXCLUSIONS_FILE).write_text(f"{listed}\n")
        try:
            return {patient.id for patient in use(PATIENTS, Path(name))}
        except FedReasonError as error:
            assert error.code is Code.EXCLUSIONS_UNKNOWN
            return set()


def used(patients: list[Patient], folder: Path) -> list[Patient]:
    """Leave out as a site does."""
    return without_excluded(patients, folder, required=True, column="id")


def _logged(patients: list[Patient], folder: Path) -> list[Patient]:
    return without_excluded(patients, folder, required=True, whole_hospital=True, column="id")


def _some_line_is_enough(patients: list[Patient], folder: Path) -> list[Patient]:
    found = exclusions.opted_out(patients, folder, required=True, column="id")
    return without_excluded(patients, folder, required=True, whole_hospital=bool(found.gone), column="id")


def _never_refused(patients: list[Patient], folder: Path) -> list[Patient]:
    with patch.object(OptedOut, "refuse", lambda self, **_: None):
        return used(patients, folder)


def _as_written(patients: list[Patient], folder: Path) -> list[Patient]:
    """Compare identifiers as text, so that 00123 names nobody."""
    with patch.object(exclusions, "folded", str):
        return used(patients, folder)


def _the_registrys_column_alone(patients: list[Patient], folder: Path) -> list[Patient]:
    real = exclusions._headings

    def headings(line: str, column: str | None) -> exclusions.Headings:
        found = real(line, column)
        return exclusions.Headings(found.patients, found.patients)

    with patch.object(exclusions, "_headings", headings):
        return used(patients, folder)


def _counted_only(patients: list[Patient], folder: Path) -> list[Patient]:
    used(patients, folder)
    return patients


CHECKS = [
    Check(
        "opt-outs",
        partial(check_opt_outs, used),
        {
            "a line that names nobody is a line of the log": partial(check_opt_outs, _logged),
            "one line that names somebody is enough": partial(check_opt_outs, _some_line_is_enough),
            "nothing is refused": partial(check_opt_outs, _never_refused),
            "identifiers are compared as written": partial(check_opt_outs, _as_written),
            "the registry's column counts alone": partial(check_opt_outs, _the_registrys_column_alone),
            "who opted out is counted and stays": partial(check_opt_outs, _counted_only),
        },
    )
]
