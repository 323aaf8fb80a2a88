"""Where a run's time went: seconds and bytes of every site in every stage, over all rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from common.pages.page import html_table, paragraph
from server.amounts import duration_text, size_text
from server.rounds.stages import Stages, Took

NOTE = (
    "A site's seconds are those from the beginning of the stage to its answer, a refusal too, by the coordinator's "
    "clock; how long a site was waited for that did not answer is not in them. What was begun again within a round is "
    "added up. Bytes are those of the messages' content; a task that was sent twice counts twice."
)


def stages_section(rounds: Sequence[Stages]) -> str:
    """Return each stage with its sites, the slowest first: in how many rounds it answered, and how soon."""
    rows: list[tuple[object, ...]] = []
    kinds: dict[int, str] = {}
    for stage in dict.fromkeys(stage for stages in rounds for stage in stages):
        held = [stages[stage] for stages in rounds if stage in stages]
        slowest = [max(known) for sites in held if (known := _seconds(sites.values()))]
        kinds[len(rows)] = "main"
        rows.append((stage, *_amounts(slowest, [took for sites in held for took in sites.values()])))
        names = dict.fromkeys(site for sites in held for site in sites)
        of = {site: [sites[site] for sites in held if site in sites] for site in names}
        for site, taken in sorted(of.items(), key=lambda pair: (-max(_seconds(pair[1]), default=0.0), pair[0])):
            kinds[len(rows)] = "sub"
            rows.append((site, *_amounts(_seconds(taken), taken)))
    head = ["stage, site", "answered", "median", "longest", "to the site", "from the site"]
    return html_table(head, rows, kinds=kinds) + paragraph(NOTE, "note")


def _seconds(taken: Iterable[Took]) -> list[float]:
    return [took.seconds for took in taken if took.seconds is not None]


def _amounts(seconds: Sequence[float], taken: Sequence[Took]) -> tuple[object, ...]:
    told = (duration_text(median(seconds)), duration_text(max(seconds))) if seconds else (None, None)
    return len(seconds), *told, size_text(sum(took.down for took in taken)), size_text(sum(took.up for took in taken))
