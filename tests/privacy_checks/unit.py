"""Who a patient is and who trains is the site's to say; who was erased or opted out leaves at the next task."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from client.node.handlers import resident_site
from client.site.kit import require_roster
from client.site.opened import Opened
from common import synthetic
from common.codebook import ROW, Codebook
from common.errors import Code
from common.stream import Stream
from tests.hospitals import asked, federation_of, machine, private_run, refusal, restart, write_registry
from tests.privacy_checks import Check, on_broken
from tests.privacy_checks.anchored import small

Rows = list[dict[str, str]]


def codebook_by(column: str) -> Codebook:
    """Return the federation's codebook with another column for the patient."""
    return synthetic.codebook().model_copy(update={"patient": column, "ignored": ("patient_id", "visit_id")})


def check_unit(column: str) -> bool:
    """A codebook that takes rows or visits for patients is refused, at the site whose officer said patient_id."""
    with machine() as folder:
        book = codebook_by(column)
        site = federation_of(folder, "amc", "snubh", codebook=book)[0]
        rows = synthetic.registry("north", 24, seed=7)
        write_registry(site, [{"visit_id": f"v{number}", **row} for number, row in enumerate(rows)])
        restart()
        code = refusal(asked(site, private_run(small(), questions={"codebook_sha256": book.sha256})))
        return code == int(Code.PRIVACY_UNIT)


def trained(site: Path, run: str) -> int:
    """Return how many patients were in the last step of a run, by the site's own log."""
    lines = (site / "state" / "training" / f"{run}.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["patients"])


def check_leaves(leave: Callable[[Path, str, Rows], object]) -> bool:
    """A patient who is erased or opts out between two tasks of a running site is in the first and not in the second."""
    with machine() as folder:
        site, config = federation_of(folder, "amc", "snubh")[0], private_run(small())
        rows = synthetic.registry("north", 24, seed=7)
        restart()
        if refusal(asked(site, config, 1)) is not None:
            return False
        before, gone = trained(site, config.name), resident_site(site).training(config)[0].id
        leave(site, gone, rows)
        code = refusal(asked(site, config, 2))
        left = all(patient.id != gone for patient in resident_site(site).training(config))
        return code is None and left and trained(site, config.name) == before - 1


def erased(site: Path, patient: str, rows: Rows) -> None:
    """Take a patient out of the registry's file."""
    write_registry(site, [row for row in rows if row["patient_id"] != patient])


def opted_out(site: Path, patient: str, rows: Rows) -> None:
    """Put a patient on the list, in another spelling."""
    (site / "excluded.txt").write_text(f"  {patient.upper()} \n")


def check_stranger() -> bool:
    """An opt-out that names nobody stops every kind of task."""
    with machine() as folder:
        site, config = federation_of(folder, "amc", "snubh")[0], private_run(small())
        restart()
        (site / "excluded.txt").write_text("nobody-of-that-name\n")
        kinds = ("query", "query.ask", "train", "evaluate")
        return {refusal(asked(site, config, kind=kind)) for kind in kinds} == {int(Code.SITE_CLOSED)}


def check_split() -> bool:
    """Who trains does not follow from what the coordinator knows: the split that it would compute is another one."""
    with machine() as folder:
        site = federation_of(folder, "amc", "snubh")[0]
        config = private_run(small(), questions={"held_out": 0.5})
        restart()
        found = resident_site(site)
        trains = {patient.id for patient in found.training(config)}
        guessed = {
            patient.id
            for patient in found.patients
            if Stream.named("split", config.federation.name, patient.id).uniform() >= config.questions.held_out
        }
        again = {patient.id for patient in found.training(private_run(small(), "later", questions={"held_out": 0.5}))}
        return trains == again != guessed


def check_federation() -> bool:
    """A task that calls the federation by another name, for another split, is refused."""
    with machine() as folder:
        site = federation_of(folder, "amc", "snubh")[0]
        restart()
        code = refusal(asked(site, private_run(small(), federation={"name": "sepsis2"})))
        return code == int(Code.FEDERATION_OTHER)


def _any_federation(folder: Path, config: Any, task: Any) -> frozenset[str]:
    return frozenset(member.site for member in require_roster(folder, task.roster_sha256, task.roster).members)


def _as_opened(folder: Path, opened: Opened) -> Opened:
    return opened


def _opted_in(patients: Any, folder: Path, **_: object) -> list[Any]:
    return list(patients)


_GATE, _PLACE = "client.training.gate", "client.training.workplace"
CHECKS = [
    *(
        Check(
            f"unit: a codebook by {what}",
            partial(check_unit, column),
            {
                "the codebook says who a patient is": partial(
                    on_broken, partial(check_unit, column), f"{_GATE}.require_unit", lambda *_: None
                )
            },
        )
        for what, column in (("row", ROW), ("visit", "visit_id"))
    ),
    Check(
        "unit: erased while the site runs",
        partial(check_leaves, erased),
        {
            "the registry is read once": partial(
                on_broken, partial(check_leaves, erased), f"{_PLACE}.reopened", _as_opened
            )
        },
    ),
    Check(
        "unit: opted out while the site runs",
        partial(check_leaves, opted_out),
        {
            "the list is not read": partial(
                on_broken, partial(check_leaves, opted_out), f"{_PLACE}.without_excluded", _opted_in
            )
        },
    ),
    Check(
        "unit: an opt-out of nobody",
        check_stranger,
        {
            "the line is passed over": partial(
                on_broken, check_stranger, "client.site.exclusions.OptedOut.refuse", lambda *_, **__: None
            )
        },
    ),
    Check(
        "split: by the site's secret",
        check_split,
        {"no key": partial(on_broken, check_split, f"{_PLACE}.split_secret", lambda *_: None)},
    ),
    Check(
        "split: a task of another federation",
        check_federation,
        {
            "names are not compared": partial(
                on_broken, check_federation, f"{_GATE}.require_federation", _any_federation
            )
        },
    ),
]
