"""Leak groups proposed by a site's own training patients, for a person to accept; they stay at the site until then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from client.questions.leaks import THRESHOLD, proposed_groups
from client.site.exclusions import without_excluded
from client.site.opened import open_registry
from client.site.secret import split_secret
from client.site.split import held_out
from common.config import load_config
from common.errors import Code, FedReasonError


def leak_lines(folder: Path, planned: Path) -> Iterator[str]:
    """Yield what is proposed, a pair a line as the codebook would state it, the strongest first.

    Raises
    ------
    FedReasonError
        What is wrong with the run or the registry; CODEBOOK_CHANGED where the run is for another codebook.
    """
    run, _ = load_config(planned)
    opened = open_registry(folder)
    if run.questions.codebook_sha256 != opened.codebook.sha256:
        raise FedReasonError(
            Code.CODEBOOK_CHANGED,
            f"{planned} is for another codebook than {opened.config.codebook}.",
            "Ask the coordinator for the federation's codebook.",
        )
    patients = without_excluded(
        opened.registry.patients,
        folder,
        required=opened.config.federation is not None,
        whole_hospital=opened.config.exclusions.whole_hospital,
        column=opened.codebook.patient,
    )
    secret = split_secret(folder, opened.config.federation)
    training = [patient for patient in patients if not held_out(patient, run, secret)]
    found = proposed_groups(opened.codebook, training)
    yield f"# {len(found)} pairs share more than {THRESHOLD} nats and are shown together. Computed from records:"
    yield "# whoever adds one to the codebook's leak_groups tells the federation that the two depend on each other."
    for leak in found:
        yield f'["{leak.first}", "{leak.second}"],  # {leak.nats:.2f} nats'
