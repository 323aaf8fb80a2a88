"""A codebook drafted from a REDCap data dictionary, for a person to review: nothing of it comes from a record.

Every row of the dictionary has one fate, and the counts told add up to its rows. A number without both bounds is
written as a comment that says what to fill in: no bound is made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.registry.redcap.dictionary import Dictionary, Field, box_column, read_dictionary, refused
from client.registry.redcap.entries import DESCRIBED, FATES, TO_FILL_IN, Entry, entries_of, fate_of
from client.registry.redcap.leaks import leak_groups
from client.registry.redcap.written import feature_block, listed, text
from common.errors import Code, FedReasonError

_MOST_INSTANCES = 100


@dataclass(frozen=True)
class Draft:
    """A codebook as TOML with comments, what a person is told of it, and what they have to look at first."""

    text: str
    told: list[str]
    remarks: list[str]


def draft_redcap(path: Path, *, title: str, events: Sequence[str] = (), repeats: Sequence[str] = ()) -> Draft:
    """Draft a codebook from the dictionary in a file.

    Parameters
    ----------
    events
        Events whose values become features of their own: "visit_1_arm_1" takes every form,
        "visit_1_arm_1=vitals,labs" these. A field of any other form is one feature, its first value.
    repeats
        Instances of repeating forms that become features of their own: "labs=3".

    Raises
    ------
    FedReasonError
        CODEBOOK_SOURCE where the file is no data dictionary or lacks a form that is named.
    """
    dictionary = read_dictionary(path, whole=False)
    designated = _events(dictionary, events)
    repeating = _repeats(dictionary, repeats)
    entries = entries_of(dictionary, designated, repeating)
    fates = {field.name: fate_of(field, dictionary) for field in dictionary.fields}
    head = [
        f"# Drafted from {path.name}, {len(dictionary.fields)} fields. Nothing here comes from a record.",
        "# To review: bounds are those of data entry; steps, scales and decimals are guessed from them and from units.",
        "# A step is no less than a clinician tells apart and no more than a quarter of a standard deviation; with",
        '# scale = "log" it is a ratio, such as 1.2. Decimals are as many as the registry tells apart.',
        "# known_later = true and ask = false are proposed by wording, with the reason: take them back where they are",
        "# wrong, and say them of other outcomes and of what nobody could infer; delete what a model need not see.",
        "",
        f"title = {text(title)}",
        f"patient = {text(dictionary.record.name)}",
        "",
        *_ignored(dictionary, entries, fates),
        *_leak_groups(dictionary, entries),
    ]
    faulty = [field for field in dictionary.fields if fates[field.name] == "faulty"]
    left_out = "It is left out; correct it in REDCap and download the dictionary again."
    remarks = [
        *(str(FedReasonError(error.code, error.found, left_out)) for error in dictionary.nameless),
        *(
            str(refused(dictionary.path, field.line, f"(field {field.name}) {field.fault}", left_out))
            for field in faulty
        ),
        *_proposed(entries),
    ]
    return Draft("\n".join([*head, *_sections(entries), ""]), _told(dictionary, entries, fates), remarks)


def _sections(entries: Sequence[Entry]) -> list[str]:
    blocks, section = [], None
    for entry in entries:
        if entry.section != section:
            section = entry.section
            blocks.append(f"\n# {section} ".ljust(121, "-"))
        blocks.append(feature_block(entry))
    return blocks


def _ignored(dictionary: Dictionary, entries: Sequence[Entry], fates: Mapping[str, str]) -> list[str]:
    """Columns of an export that are no features, by reason; REDCap's own are in every export."""
    own = ["redcap_*", *(f"{form}_{what}" for form in dictionary.forms for what in ("complete", "timestamp"))]
    lines = ["ignored = [", "    # REDCap's own", *listed(own)]
    for fate, said in FATES.items():
        columns = [column for field in dictionary.fields if fates[field.name] == fate for column in _of(field)]
        if columns and fate not in DESCRIBED | {"record"}:
            lines += [f"    # {said}", *listed(columns)]
    elsewhere = dict.fromkeys(entry.address.column for entry in entries if entry.name != entry.address.column)
    placed = [
        entry.address.column for entry in entries if entry.fate in DESCRIBED and entry.address.column in elsewhere
    ]
    if placed:
        lines += ["    # described at an event or in an instance", *listed(dict.fromkeys(placed))]
    return [*lines, "]"]


def _of(field: Field) -> Sequence[str]:
    """Columns of a field in an export; boxes too where its type is not known."""
    return (field.name, box_column(field.name, "") + "*") if field.fault else field.columns


def _leak_groups(dictionary: Dictionary, entries: Sequence[Entry]) -> list[str]:
    """Return the groups as TOML, those as a comment that have a member which is one."""
    groups = leak_groups(entries, dictionary.by_name)
    unfinished = {entry.name for entry in entries if entry.fate in TO_FILL_IN}
    lines = [
        "",
        "# None of a group is shown where another is asked for: a field tells of what its condition or equation reads,",
        "# a ticked box of those beside it, one death of another, a label of one that says the same.",
        "leak_groups = [",
        *(f"    {'# ' if unfinished & set(group) else ''}[{', '.join(map(text, group))}]," for group in groups),
        "]",
    ]
    return lines if groups else []


def _told(dictionary: Dictionary, entries: Sequence[Entry], fates: Mapping[str, str]) -> list[str]:
    counts = Counter(fates.values())
    described = sum(entry.fate in DESCRIBED for entry in entries)
    told = [f"{len(dictionary.fields):,} fields in {len(dictionary.forms):,} forms give {described:,} features"]
    told += [f"{counts[fate]:,} {said}" for fate, said in FATES.items() if counts[fate]]
    nameless = len(dictionary.nameless)
    return told + ([f"{nameless:,} rows that name no field of their own, left out"] if nameless else [])


def _proposed(entries: Sequence[Entry]) -> list[str]:
    """Return how many features the wording says something of."""
    described = [entry for entry in entries if entry.fate in DESCRIBED]
    counts = {
        "known_later = true": sum(entry.later is not None for entry in described),
        "ask = false (nothing clinical)": sum(entry.aside is not None for entry in described),
    }
    return [f"Proposed by wording, to review: {what} of {count:,} features" for what, count in counts.items() if count]


def _events(dictionary: Dictionary, options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    events = {}
    for option in options:
        event, some, forms = option.partition("=")
        named = tuple(form.strip() for form in forms.split(",")) if some else tuple(dictionary.forms)
        _require_forms(dictionary, named)
        events[event.strip()] = named
    return events


def _repeats(dictionary: Dictionary, options: Sequence[str]) -> dict[str, int]:
    repeats = {}
    for option in options:
        form, _, count = (part.strip() for part in option.partition("="))
        if not count.isdecimal() or not 1 <= int(count) <= _MOST_INSTANCES:
            raise FedReasonError(
                Code.CODEBOOK_SOURCE,
                f"The instances of a repeating form are 1 to {_MOST_INSTANCES}, not '{option}'.",
                "Write form and count, as in labs=3.",
            )
        _require_forms(dictionary, [form])
        repeats[form] = int(count)
    return repeats


def _require_forms(dictionary: Dictionary, forms: Iterable[str]) -> None:
    unknown = [form for form in forms if form not in dictionary.forms]
    if unknown:
        raise FedReasonError(
            Code.CODEBOOK_SOURCE,
            f"{dictionary.path} has no form {', '.join(unknown)}.",
            f"It has: {', '.join(dictionary.forms)}.",
        )
