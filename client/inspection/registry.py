"""What a registry holds, feature by feature, in counts, and what is wrong with it: for the people at the site.

No value is in it, only names of the codebook and counts; they leave the site as little as the records do.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from client.inspection.unread import Unread, unread_items
from client.registry.load import Registry
from client.registry.numerals import ADVICE, CODED
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import JOINED, OTHER, Feature, number_of
from common.questions.censored import limits_of
from common.questions.question import Patient, QuestionMaker

PROBLEM, WARNING = 0.5, 0.02
"""Shares of a feature's filled cells that cannot be used above which it is refused, and warned of."""

MERGED = 0.05
"""Share of a feature's different numbers that look like another one above which its decimals are doubted."""
SHOWN_STEPS = 5
"""Differences that can be shown within a standard deviation below which they are."""
QUARTILES = 1.35
"""Standard deviations between the quartiles of a normal distribution."""

BY_CHANCE = 0.001
"""Probability to be listed alone so often, by the share of cells with several codes, below which a code is doubted."""

UNIQUE, FEWEST = 0.9, 20
"""Share of different texts, among at least so many, above which a feature all but names the patient."""

_IDENTIFYING = re.compile(
    r"mrn|ssn|name|surname|(first|last)name|initials|birth(day|date)?|dob|(tele)?phone|mobile|fax|e?mail|address|street"
    r"|zip|postcode|postal|passport|insurance|iban|account|licen[cs]e|url|ip"
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class FeatureCounts:
    """What was found of one feature.

    Parameters
    ----------
    measured
        Records with a value, OTHER included.
    unreadable, outside, unlisted
        Cells that are no number, outside the bounds, no listed category.
    texts
        Different texts shown.
    questions
        Patients who can be asked for it; None where it is never asked.
    doubts
        Cells that look like something else than a plain number, by key of `numerals.ADVICE`.
    never_listed
        Of a series, whether no value is a listed category.
    """

    feature: Feature
    measured: int
    unreadable: int
    outside: int
    unlisted: int
    texts: int
    questions: int | None
    doubts: Mapping[str, int] = field(default_factory=dict)
    never_listed: bool = False

    @property
    def unusable(self) -> int:
        """Filled cells that say nothing."""
        return self.unreadable + self.outside + self.unlisted

    @property
    def filled(self) -> int:
        """Cells that hold anything; of a series only those known as first values or unusable are counted."""
        return self.measured + self.unreadable + self.outside

    @property
    def unusable_share(self) -> float:
        """Share of the filled cells; of a series, whose later values are not counted, 1 where none says anything."""
        if self.feature.series:
            return float((self.measured == 0 or self.never_listed) and self.unusable > 0)
        return self.unusable / self.filled if self.filled else 0.0


@dataclass(frozen=True)
class Finding:
    """A warning about a feature, or a refusal where `code` is given."""

    feature: str
    short: str
    text: str
    code: Code | None = None


@dataclass(frozen=True)
class Inspection:
    """Counts of a registry; `tasks` are the patients whom each task of the codebook can be asked of."""

    patients: int
    records: int
    opted_out: int
    without_values: int
    ignored_columns: int
    features: tuple[FeatureCounts, ...]
    tasks: Mapping[str, int]
    findings: tuple[Finding, ...]
    unread: tuple[Unread, ...] = ()

    @property
    def refused(self) -> tuple[str, ...]:
        """Features of which something found is more than a warning."""
        return tuple(finding.feature for finding in self.findings if finding.code is not None)

    @property
    def warned(self) -> int:
        """Features of which something is to be looked at."""
        return len({finding.feature for finding in self.findings if finding.code is None})


def inspect_registry(registry: Registry, maker: QuestionMaker, patients: Collection[Patient]) -> Inspection:
    """Count what a registry holds.

    Parameters
    ----------
    maker
        Makes the questions that are counted.
    patients
        Those of the registry who have not opted out: they alone are asked.
    """
    codebook, report = maker.codebook, registry.report
    texts = _texts(codebook, registry.patients)
    asked = dict.fromkeys(maker.weights, 0)
    for patient in patients:
        for item in maker.items(patient):
            asked[item] += 1
    features = tuple(
        FeatureCounts(
            feature=feature,
            measured=report.measured[feature.name],
            unreadable=report.unreadable.get(feature.name, 0),
            outside=report.outside.get(feature.name, 0),
            unlisted=report.unlisted.get(feature.name, 0),
            doubts=report.doubts_of(feature.name),
            never_listed=feature.name in report.never_listed,
            texts=len(texts[feature.name].keys() - {OTHER}),
            questions=asked.get(feature.name),
        )
        for feature in _by_section(codebook)
    )
    findings = [finding for counts in features for finding in findings_of(counts)]
    refused = {finding.feature for finding in findings if finding.code is not None}
    findings += display_findings(codebook, texts, report.merged, refused)
    findings += limit_findings(codebook, texts)
    findings += list_findings(codebook, texts)
    unread = unread_items(maker, patients, without=refused)
    findings += [Finding(each.feature, "answers itself", each.warning) for each in unread if each.warning]
    return Inspection(
        patients=report.patients,
        records=report.records,
        opted_out=report.patients - len(patients),
        without_values=report.without_values,
        ignored_columns=report.ignored_columns,
        features=features,
        tasks=_tasks(maker, asked, patients),
        findings=tuple(findings),
        unread=unread,
    )


def limit_findings(codebook: Codebook, texts: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    """Yield the features with numbers that one of their words stands for too, as 0.3 is beside "<0.5"."""
    for feature in codebook.features:
        limits = limits_of(feature).values()
        counted = ((number_of(text), cells) for text, cells in texts[feature.name].items() if limits)
        count = sum(cells for number, cells in counted if number is not None and any(x.holds(number) for x in limits))
        if count:
            told = f"{feature.name}: {count:,} numbers lie beyond a limit that its words state; they are not asked for."
            yield Finding(feature.name, "beyond a limit", told)


def list_findings(codebook: Codebook, texts: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    """Yield codes of lists that are never beside another though they are frequent, and those that wrongly are."""
    for feature in codebook.features:
        name, cells = feature.name, texts[feature.name]
        several = [(text.split(JOINED), count) for text, count in cells.items() if JOINED in text]
        if not feature.separator or not several:
            continue
        shared = sum(count for _, count in several) / cells.total()
        seen = {text for listed, _ in several for text in listed}
        for text in feature.beside:
            if text not in seen and (1 - shared) ** cells[text] < BY_CHANCE:
                codes = [code for code, shown in feature.categories.items() if shown == text]
                told = (
                    f"{name}: '{text}' is listed {cells[text]:,} times and never beside another code. Where it rules "
                    f"the others out, say so in the codebook, else it tells wrong choices: alone = {json.dumps(codes)}."
                )
                yield Finding(name, "stands alone", told)
        if wrong := sum(count for listed, count in several if not set(listed) <= {*feature.beside}):
            told = f"{name}: {wrong:,} cells list a code that stands alone beside another; they are not asked for."
            yield Finding(name, "not alone", told)


def display_findings(
    codebook: Codebook, texts: Mapping[str, Counter[str]], merged: Mapping[str, float], refused: Collection[str]
) -> Iterator[Finding]:
    """Yield the features whose decimals make one of numbers that lie apart, measured by how far numbers spread."""
    for name, share in merged.items():
        feature = codebook.by_name[name]
        counted = [(number_of(text), cells) for text, cells in texts[name].items()]
        shown = np.repeat([number or 0.0 for number, _ in counted], [cells * (n is not None) for n, cells in counted])
        first, last = np.percentile(shown, (25, 75)) if len(shown) else (0.0, 0.0)
        spread = (last - first) / QUARTILES if last > first else float(shown.std()) if len(shown) else 0.0
        if name not in refused and share >= MERGED and 10.0**-feature.decimals > spread / SHOWN_STEPS:
            told = (
                f"{name}: {share:.0%} of its different numbers are shown as another one is (decimals = "
                f"{feature.decimals}). Look at decimals, unit and bounds."
            )
            yield Finding(name, "display merges", told)


def explained(inspection: Inspection, hints: Mapping[str, str]) -> Inspection:
    """Add to the refusal of each feature what may explain it."""
    findings = tuple(
        replace(finding, text=f"{finding.text} {hints[finding.feature]}")
        if finding.code is not None and finding.feature in hints
        else finding
        for finding in inspection.findings
    )
    return replace(inspection, findings=findings)


def findings_of(counts: FeatureCounts) -> Iterator[Finding]:
    """Yield what is wrong with a feature, the worst first."""
    feature, name = counts.feature, counts.feature.name
    if counts.unusable_share > PROBLEM:
        error = unusable(counts)
        yield Finding(name, f"E{error.code.value}", f"{error.found} {error.fix}", error.code)
    elif counts.unusable_share > WARNING:
        yield Finding(name, f"over {WARNING:.0%} unusable", _unusable_text(counts))
    for what, count in counts.doubts.items():
        seen, advice = ADVICE[what]
        yield Finding(name, what, f"{name}: {count:,} cells {seen}. {advice}")
    if counts.measured == 0 and not counts.unusable:
        yield Finding(name, "never measured", f"{name}: no record has a value; nobody can be asked for it.")
    if counts.questions and counts.questions > 1 and counts.texts == 1:
        yield Finding(
            name, "always the same", f"{name}: every value is the same, so that a question for it teaches nothing."
        )
    if feature.kind == "text":
        yield Finding(name, "free text", f"{name}: free text may name people; it is shown to the model as it stands.")
    elif feature.kind == "categorical" and counts.texts >= FEWEST and counts.texts > UNIQUE * counts.measured:
        yield Finding(name, "may identify", f"{name}: nearly every record has a value of its own, as identifiers do.")
    if words := sorted(filter(_IDENTIFYING.fullmatch, _words(feature))):
        told = f"{name}: by its name ({', '.join(words)}) it may identify a person. If so, take it out of the codebook."
        yield Finding(name, "may identify", told)


def unusable(counts: FeatureCounts) -> FedReasonError:
    """Return the refusal of a feature whose cells mostly say nothing."""
    unit = f" ({counts.feature.unit})" if counts.feature.unit else ""
    doubts = {what: count for what, count in counts.doubts.items() if what != CODED}  # those are usable
    doubt = max(doubts, key=lambda what: doubts[what], default=None)
    if doubt is not None and 2 * doubts[doubt] > counts.unusable:
        return FedReasonError(Code.REGISTRY_UNITS, _unusable_text(counts), ADVICE[doubt][1])
    fix = (
        "Compare its codes with the codebook's categories."
        if counts.feature.kind == "categorical"
        else f"Compare its unit with the codebook's{unit}, and convert it in the export or the query."
    )
    return FedReasonError(Code.REGISTRY_UNITS, _unusable_text(counts), fix)


def _unusable_text(counts: FeatureCounts) -> str:
    feature = counts.feature
    kinds = {
        "no number": counts.unreadable,
        f"outside {feature.low:g} to {feature.high:g}" if feature.kind == "numeric" else "": counts.outside,
        "no listed category": counts.unlisted,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in kinds.items() if count)
    of = "" if feature.series else f" of {counts.filled:,}"
    return f"{feature.name}: {counts.unusable:,}{of} filled cells cannot be used: {told}."


def _texts(codebook: Codebook, patients: Iterable[Patient]) -> dict[str, Counter[str]]:
    """Texts of every feature and the records that show them."""
    found: dict[str, Counter[str]] = {feature.name: Counter() for feature in codebook.features}
    for patient in patients:
        for record in patient.records:
            for name, text in record.values.items():
                found[name][text] += 1
    return found


def _tasks(maker: QuestionMaker, asked: Mapping[str, int], patients: Iterable[Patient]) -> dict[str, int]:
    counts = {name: asked[name] for name in maker.tasks if name in asked}
    for task in maker.consultations:
        counts[task.name] = sum(
            any(record.values.get(task.feature) is not None for record in patient.records) for patient in patients
        )
    return counts


def _by_section(codebook: Codebook) -> list[Feature]:
    """Features with those of one section together, sections and features in the codebook's order."""
    sections = list(dict.fromkeys(feature.section for feature in codebook.features))
    return sorted(codebook.features, key=lambda feature: sections.index(feature.section))


def _words(feature: Feature) -> set[str]:
    return {word.lower() for word in _WORD.findall(f"{feature.name} {feature.label}")}
