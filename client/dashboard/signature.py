"""One page to print: every number that a hospital's officer signs for."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from html import escape
from importlib.metadata import version
from pathlib import Path

from client.dashboard.budget import Budget
from client.dashboard.left import Left, outbox_folder
from client.dashboard.limits import changed, in_words, signature
from client.dashboard.parts import clock, part
from client.draft.texts import LEAST
from client.node.listing import UNLISTED
from client.node.outbox import read_outbox, require_whole
from client.node.status import health, read_status
from client.site.config import load_site
from client.site.exclusions import EXCLUSIONS_FILE, listed
from client.site.kit import accepted_roster, coordinator_fingerprint
from common.codebook import load_codebook
from common.pages.page import Section, facts, paragraph
from common.web.visit import Answer, Document, Visit

_PACKAGES = ("fedreason", "flwr", "torch", "cryptography")


def for_signature(folder: Path, budget: Budget, visit: Visit) -> Answer:
    """Return the page; where a part of it cannot be told it says that it is not to be signed."""
    failed: list[str] = []
    parts: dict[str, Callable[[], str]] = {
        "Site": partial(_site, folder),
        "Policy in words": partial(in_words, folder),
        "Signature of the policy": partial(signature, folder),
        "Against the policy before": partial(changed, folder),
        "Privacy budget": budget.spent,
        "Budget by run": budget.by_run,
        "Ledger": budget.checked,
        "What left": partial(_left, folder),
        "Roster": partial(_roster, folder),
        "Opt-outs": partial(_opt_outs, folder),
        "Versions": _versions,
    }
    sections = [part(title, make, failed) for title, make in parts.items()]
    if failed:
        told = f"Not complete, and not to be signed: {', '.join(failed)} cannot be told."
        sections.insert(0, Section("Not complete", paragraph(told, "warn")))
    names = ("Name", "Office", "Date", "Signature")
    lines = "".join(f'<tr><th scope="row">{name}</th><td></td></tr>' for name in names)
    table = f'<table class="facts sign"><tbody>{lines}</tbody></table>'
    sections.append(Section("Seen and approved", table))
    made = clock(datetime.now(UTC))
    lead = f"Site {folder.name}, as its files stood at {made}. To be printed and signed."
    return Document("For signature", lead, sections)


def _site(folder: Path) -> str:
    config, record = load_site(folder), read_status(folder)
    return facts(
        {
            "site": config.name,
            "federation": config.federation or "none: a simulation",
            "coordinator": config.coordinator,
            "hours": ", ".join(config.hours) or "any",
            "codebook, sha256": load_codebook(config.codebook).sha256,
            "state": health(record).text,
            "coordinator last heard": (record and clock(record.contact)) or "never",
        }
    )


def _left(folder: Path) -> str:
    place = outbox_folder(folder)
    found = read_outbox(place)
    require_whole(place, found)
    return Left.of(found).shown() + paragraph(UNLISTED, "note")


def _roster(folder: Path) -> str:
    roster = accepted_roster(folder)
    told: dict[str, object] = {
        "federation": roster.federation,
        "version": roster.version,
        "issued": clock(roster.issued),
        "sha256": roster.sha256,
        "coordinator's key": coordinator_fingerprint(folder),
    }
    for member in roster.members:
        told[f"{member.site}, admitted"] = member.admitted
        told |= {f"{member.site}, {name} key": text for name, text in member.fingerprints._asdict().items()}
    return facts(told)


def _opt_outs(folder: Path) -> str:
    """Say how long the list is; few lines are told as few, as everywhere."""
    config = load_site(folder)
    column = load_codebook(config.codebook).patient
    count = listed(folder, required=config.federation is not None, column=column)
    told = "none" if count == 0 else f"fewer than {LEAST}" if count < LEAST else f"{count:,}"
    return facts({f"lines of {EXCLUSIONS_FILE}": told}) + paragraph(
        "Whoever is named there is left out of everything. The site's check looks for them in the registry.",
        "note",
    )


def _versions() -> str:
    return facts({"python": platform.python_version(), **{name: escape(version(name)) for name in _PACKAGES}})
