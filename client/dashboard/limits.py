"""The policy in words, whose signature stands on it, and what it allows beyond the one before."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from client.dashboard.parts import clock, part
from client.policy.change import loosened, read_kept, require_confirmed
from client.policy.policy import POLICY_FILE, read_policy
from client.policy.words import sentences
from client.site.decisions import FILE, decisions
from common.pages.page import facts, html_table, paragraph
from common.web.visit import Answer, Document, Visit


def limits(folder: Path, visit: Visit) -> Answer:
    """Return the page of the policy."""
    sections = [
        part("In words", partial(in_words, folder)),
        part("Signature", partial(signature, folder)),
        part("Against the policy before", partial(changed, folder)),
        part("What was decided here", partial(trail, folder)),
    ]
    lead = (
        "What a run may ask of this site at most. No message can change it; a run that asks for more is refused here."
    )
    return Document("Policy", lead, sections)


def in_words(folder: Path) -> str:
    """Return every limit as a sentence."""
    return facts(sentences(read_policy(folder).policy))


def signature(folder: Path) -> str:
    """Return whose signature holds, and of which bytes."""
    found = read_policy(folder)
    told = facts(
        {
            f"{POLICY_FILE}, sha256": found.sha256,
            "signed by": found.approval.officer if found.approval else "nobody",
            "signed": clock(found.approval.signed) if found.approval else None,
        }
    )
    if found.approval:
        return told
    return told + paragraph("No officer's key is pinned: nothing says who wrote the policy.", "warn")


def changed(folder: Path) -> str:
    """Return what became weaker since the policy that the site last used; refuses what nobody confirmed."""
    kept = read_kept(folder)
    if kept is None:
        return paragraph("The site has not used any policy yet.")
    force = read_policy(folder)
    require_confirmed(folder, force)
    more = loosened(kept.policy, force.policy)
    if kept.sha256 == force.sha256:
        return paragraph("It is the one in force.")
    if not more:
        return paragraph("It was changed since the site last used one, and allows nothing that was not allowed before.")
    return facts({line.partition(": ")[0]: line.partition(": ")[2] for line in more}) + paragraph(
        "It allows this beyond the one before; the officer's newer signature confirms it."
    )


def trail(folder: Path) -> str:
    """Return which policies, officers and rosters came into force here, when and by whom; the newest first."""
    found = decisions(folder)
    if not found:
        return paragraph("Nothing yet.")
    rows = [
        (clock(one.time), one.what, one.by, (one.before or "none")[:12], one.after[:12], "; ".join(one.allows) or "-")
        for one in found
        if one is not None
    ]
    table = html_table(["when", "what", "by", "before", "after", "allows beyond the one before"], rows)
    damaged = found.count(None)
    return table + (paragraph(f"{damaged} lines of {FILE} cannot be read.", "warn") if damaged else "")
