"""A codebook of four features, registries of a few rows, and what inspecting them finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.inspection.registry import FeatureCounts, Inspection, findings_of, inspect_registry
from client.registry.delimited import read_delimited
from client.registry.load import Registry, registry_from
from common.codebook import Codebook, Task
from common.errors import Code
from common.feature import Feature
from common.questions.question import QuestionMaker

CREATININE: dict[str, Any] = {
    "name": "crea",
    "section": "Labs",
    "label": "Creatinine",
    "unit": "mg/dL",
    "kind": "numeric",
    "low": 0.1,
    "high": 30,
    "step": 0.5,
    "decimals": 1,
}
SEX: dict[str, Any] = {"name": "sex", "section": "Person", "label": "Sex", "kind": "categorical"}
CODEBOOK = Codebook(
    title="test",
    patient="id",
    ignored=("ward",),
    features=(
        Feature(name="age", section="Person", label="Age", kind="numeric", low=18, high=110, step=10),
        Feature(**CREATININE),
        Feature(**SEX, categories={"1": "male", "2": "female"}),
        Feature(name="note", section="Labs", label="Impression", kind="text"),
    ),
    tasks=(Task(name="advice", kind="consultation", feature="note", question="What now?"),),
)


def registry_of(place: Path, content: str, codebook: Codebook = CODEBOOK) -> Registry:
    (place / "registry.csv").write_text(content)
    return registry_from(read_delimited(place / "registry.csv"), codebook)


def inspected(place: Path, content: str, codebook: Codebook = CODEBOOK, gone: int = 0) -> Inspection:
    registry = registry_of(place, content, codebook)
    return inspect_registry(registry, QuestionMaker(codebook, "full"), registry.patients[gone:])


def counts(measured: int, *, unreadable: int = 0, outside: int = 0, texts: int = 5, **feature: Any) -> FeatureCounts:
    described = Feature.model_validate(CREATININE | feature)
    return FeatureCounts(described, measured, unreadable, outside, 0, texts, measured)


def codes(found: FeatureCounts) -> list[tuple[str, Code | None]]:
    return [(finding.short, finding.code) for finding in findings_of(found)]
