"""Rules that never read the record, on every registry that has a codebook under configs/registries.

A numeric feature that some rule answers in more than chance + 0.10 teaches that rule in place of medicine, unless
`LISTED` says why no scale or step could help. Values are those of the open tables in the folder FEDREASON_DATA; where
it has none of a registry, or fewer than 100 of a feature, they are drawn evenly on its scale within its bounds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from client.inspection.blind import Blind, ask, blind_rules
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from client.registry.redcap.config import RedcapConfig
from client.registry.redcap.records import open_redcap
from common.codebook import Codebook, load_codebook
from common.feature import Feature
from common.questions.choices import MOST_CHOICES
from common.questions.ladder import Scale
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream

CODEBOOKS = Path(__file__).parents[1] / "configs" / "registries"
DATA = Path(os.environ.get("FEDREASON_DATA", Path(__file__).parents[2] / "shared" / "data"))
TABLES = {
    "support2": "support2/support2_sepsis_dev.csv",
    "eicu": "eicu_demo/eicu_wide.csv",
    "physionet2019": "physionet2019/physionet2019_wide_dev.csv",
    "heart-failure": "heart_failure/S1Data.csv",
}
PROJECTS = {"redcapr-clinical-trial": "redcap/redcapr_clinical-trial-1"}
"""REDCap projects with more than a handful of records: their dictionary and data, up to the ending."""

LISTED = {
    ("support2", "resp"): "counted in even numbers, of which 24 alone are 12 %",
    ("physionet2019", "Resp_first24"): "counted in even numbers, of which 16 alone are 13 %",
    ("heart-failure", "Age"): "rounded to 5 years in most of 299 patients; with 5 as step 60 alone are 11 %",
    ("heart-failure", "Ejection.Fraction"): "read off in 5 %: six values are all but a fifth of the patients",
    ("heart-failure", "Sodium"): "whole numbers, of which 136 alone are 13 %",
    ("heart-failure", "Creatinine"): "shown to 0.1, where 1.0 alone are 17 %",
    ("physionet2019", "HCO3_first24"): "whole numbers, of which 23 and 24 are 12 to 13 % each",
    ("physionet2019", "Creatinine_first24"): "shown to 0.1, where 0.8 alone are 14 %",
    ("physionet2019", "Magnesium_first24"): "shown to 0.1, where 1.9 alone are 13 %",
}
"""Items above the limit for which no coarser or finer step is below it, with the reason."""
ASKED = 6000
"""Questions of an item."""
_FEWEST = 100
_DRAWN = 2000


@dataclass(frozen=True)
class Unread:
    """How the rules fared on an item of a registry; `drawn` where its values were.

    `positions` counts how often the truth stood at each letter of five.
    """

    registry: str
    item: str
    drawn: bool
    blind: Blind
    positions: tuple[int, ...]

    @property
    def reason(self) -> str | None:
        """Why it may be above the limit, where it may."""
        return LISTED.get((self.registry, self.item))


def patients_of(name: str, codebook: Codebook) -> Sequence[Patient]:
    """Patients of a registry's open table; none where it is not on this machine."""
    if name in TABLES and (DATA / TABLES[name]).exists():
        return registry_from(read_delimited(DATA / TABLES[name]), codebook).patients
    if name in PROJECTS and (DATA / f"{PROJECTS[name]}_data.csv").exists():
        config = RedcapConfig(dictionary=DATA / f"{PROJECTS[name]}_dictionary.csv")
        table = open_redcap(read_delimited(DATA / f"{PROJECTS[name]}_data.csv"), config, codebook.by_name)
        return registry_from(table, codebook).patients
    return ()


def drawn(feature: Feature, count: int = _DRAWN) -> list[str]:
    """Draw values evenly on a feature's scale."""
    assert feature.low is not None and feature.high is not None
    scale, stream = Scale.of(feature), Stream.named("drawn", feature.name)
    low, high = scale.place(feature.low), scale.place(feature.high)
    return [feature.number(scale.value(low + (high - low) * float(place))) for place in stream.uniforms(count)]


def unread(tell: Callable[[str], None], least: int = ASKED) -> Iterator[Unread]:
    """Answer `least` questions or more of every numeric item of every registry by the rules."""
    for path in sorted(CODEBOOKS.glob("*.toml")):
        codebook = load_codebook(path)
        maker, patients = QuestionMaker(codebook, "full"), patients_of(path.stem, codebook)
        tell(f"{path.stem}: {len(patients):,} patients")
        for item in maker.weights:
            feature = maker.feature_of(item)
            if feature.kind != "numeric":
                continue
            truths = maker.truths(item, patients)
            few = len(truths) < _FEWEST
            values = drawn(feature) if few else truths
            asked = ask(feature, values, max(least, len(values)))
            found = blind_rules(feature, asked)
            assert found is not None, f"{item} of {path.stem} is never asked"
            letters = Counter(
                list(each.choices).index(each.truth) for each in asked if len(each.choices) == MOST_CHOICES
            )
            yield Unread(path.stem, item, few, found, tuple(letters[place] for place in range(MOST_CHOICES)))


def table_of(rows: Sequence[Unread]) -> Table:
    """Return what the rules get, the worst first."""
    table = Table(title="right without reading the record, %")
    table.add_column("item", no_wrap=True)
    for column in ("chance", "rank", "value", "word", "digits", "over"):
        table.add_column(column, no_wrap=True, min_width=6)
    for row in sorted(rows, key=lambda row: -row.blind.over_chance):
        told = row.blind
        shares = (told.chance, told.rank, told.value, told.word, told.digits)
        name = f"{row.registry} {row.item}" + " (drawn)" * row.drawn
        table.add_row(name, *(f"{100 * share:.1f}" for share in shares), f"{told.over_chance:+.3f}")
    return table
