"""A drafted codebook's parts as TOML, laid out for a person to edit."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from decimal import Decimal

from client.registry.quantity import by_ratio
from client.registry.redcap.entries import Entry
from client.registry.redcap.labels import asked, split_unit
from client.registry.redcap.scale import scale_of
from common.alike import as_one, spelt_in_ways

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST_INLINE = 5
_YES_OR_NO = {"0": "No", "1": "Yes"}


def text(value: str) -> str:
    """Return a TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def listed(names: Iterable[str]) -> list[str]:
    """Return lines of an array's content; the names hold no blanks."""
    return textwrap.wrap(
        " ".join(f"{text(name)}," for name in names),
        width=120,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def feature_block(entry: Entry) -> str:
    """Return `[[features]]` for an entry; as a comment where a person has to fill something in first."""
    field = entry.field
    lines = ["", *_comments(entry), "[[features]]", f"name = {text(entry.name)}", f"section = {text(entry.section)}"]
    lines += ["known_later = true"] if entry.later else []
    lines += ["ask = false"] if entry.aside else []
    if entry.code is not None:
        return "\n".join([*lines, f"label = {text(entry.label)}", *_categories(_YES_OR_NO)])
    if not field.numeric:
        return "\n".join([*lines, f"label = {text(entry.label)}", *_categories(as_one(field.choices))])
    label, unit = split_unit(entry.label)[0], entry.unit
    lines += [f"label = {text(label)}", *([f"unit = {text(unit)}"] if unit else []), 'kind = "numeric"']
    if entry.fate != "numeric":
        bounds = [f"{key} = {number(bound)}" for key, bound in (("low", field.low), ("high", field.high))]
        ratio = ['scale = "log"'] if by_ratio(unit, None, None) else []
        todo = [*lines[1:], *bounds, "step =", *ratio, "decimals ="]
        column = f" and take {entry.name} off `ignored`" if entry.name == entry.address.column else ""
        told = f"# Fill in what is blank{column}; uncomment the leak groups that name it."
        return "\n".join(["", told, *(f"# {line}".rstrip() for line in todo)])
    scale = scale_of(field, unit)
    lines += [f"low = {number(scale.low)}", f"high = {number(scale.high)}", f"step = {number(scale.step)}"]
    lines += ['scale = "log"'] if scale.log else []
    return "\n".join([*lines, *([f"decimals = {scale.decimals}"] if scale.decimals else [])])


def _comments(entry: Entry) -> list[str]:
    """Return what a person has to look at before the feature is used."""
    whole = entry.field.label
    ways = spelt_in_ways(entry.field.choices) if entry.code is None else []
    return [
        *([f"# Proposed by its wording ({entry.later}): known later."] if entry.later else []),
        *([f"# Nothing clinical by its wording ({entry.aside}): not asked; take it out?"] if entry.aside else []),
        *(f"# To review: taken for one: {', '.join(map(text, codes))}." for codes in ways),
        *([f"# Label shortened from: {whole}"] if asked(whole) != whole else []),
    ]


def number(value: Decimal | None) -> str:
    """Return a TOML number, or nothing."""
    if value is None:
        return ""
    plain = f"{value.normalize():f}"
    return plain if "." in plain else str(int(plain))


def _categories(choices: Mapping[str, str]) -> list[str]:
    pairs = [f"{code if _BARE.fullmatch(code) else text(code)} = {text(shown)}" for code, shown in choices.items()]
    kind = 'kind = "categorical"'
    if len(pairs) <= _MOST_INLINE:
        return [kind, f"categories = {{ {', '.join(pairs)} }}"]
    return [kind, "", "[features.categories]", *pairs]
