"""A page taken apart, and the rows of a small run that pages are made of."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from common.config import RunConfig
from server.rounds.store import EvaluationRow, RoundRow, RunStore, StagesRow

HOSTILE = "</script><script src=\"https://evil.example/x.js\"></script><a href='http://evil.example'>&"
SITES = ["north", "south"]


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, scripts apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def figures(self) -> list[str]:
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "figure"]

    @property
    def fetched(self) -> list[dict[str, str | None]]:
        """What leads elsewhere: any attribute with an address but a link within the page."""
        asks = {"src", "srcset", "action", "data", "poster", "background"}
        return [
            attrs
            for _, attrs in self.tags
            if asks & set(attrs) or not str(attrs.get("href", "#")).startswith("#") or "xlink:href" in attrs
        ]


def run_config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "trial",
            "federation": {"name": "trial", "rounds": 4, "sites": 2, "population": 100, "sampling_rate": 0.1},
            "optimizer": {"learning_rate": 1e-3},
        }
    )


def round_row(number: int, *, told: bool = True, refused: dict[str, int] | None = None) -> RoundRow:
    return RoundRow(
        round=number,
        seconds=1.5 + number / 1000,
        sites=[site for site in SITES if site not in (refused or {})],
        refused=refused or {},
        bytes_up=2_000_000 + number * 1000,
        bytes_down=1_000_000,
        counts={"rollouts": 7.0, "reward": float(number)} if told else None,
        gradient_norm=0.0123,
        adapter_sha256=f"{number:064x}",
    )


def counts(asked: int, free: int, forced: int) -> dict[str, Any]:
    return {"sex": {"asked": asked, "free": free, "forced": forced}}


def run_folder(folder: Path, rows: list[RoundRow | EvaluationRow | StagesRow]) -> Path:
    with RunStore.opened(folder, run_config()) as store:
        for row in rows:
            store.record(row)
    return folder


def full_run(folder: Path) -> Path:
    rounds = [round_row(1), round_row(2, refused={"south": 503}), round_row(3), round_row(4, refused={"south": 999})]
    evaluations = [
        EvaluationRow(round=number, site=site, counts=counts(9, 3 + number, 4 + number))
        for number in (0, 4)
        for site in SITES
    ]
    stages = [
        StagesRow(round=number, stages={"train": {"north": (2.0 * number, 30, 200), "south": (None, 30, 0)}})
        for number in (1, 2, 4)
    ]
    return run_folder(folder, [*rounds, *evaluations, *stages])


def accuracy(start: int, *, compare: bool = True) -> dict[str, float]:
    names = ["chance", "majority", "before", "best_no_training", *(["alone_mean"] if compare else []), "federated"]
    return {name: (start + i) / 1000 for i, name in enumerate([*names, *(["pooled"] if compare else [])])}


def summary(*, compare: bool = True, label: str = "Sex") -> dict[str, Any]:
    def feature(label: str, kind: str, start: int) -> dict[str, Any]:
        return {"label": label, "kind": kind, "asked": 33, "short_list": None, **accuracy(start, compare=compare)}

    arms = ["before", *(SITES if compare else []), "federated", *(["pooled"] if compare else [])]
    result = {
        "name": "trial",
        "config_sha256": "c" * 64,
        "protocol": "fedsgd",
        "rounds": 4,
        "sites": SITES,
        "questions": 400,
        "accuracy": accuracy(211, compare=compare),
        "accuracy_forced": accuracy(311, compare=compare),
        "alone": {"north": 0.417, "south": 0.423} if compare else {},
        "by_kind": {"categorical": accuracy(511, compare=compare), "numeric": accuracy(611, compare=compare)},
        "by_feature": {
            "sex": feature(label, "categorical", 711),
            "age": feature("Age", "numeric", 811),
            "twin": feature("Age", "numeric", 851),
        },
        "by_site": {
            site: {arm: (901 + i + 10 * k) / 1000 for i, arm in enumerate(arms)} for k, site in enumerate(SITES)
        },
        "adapter_sha256": "a" * 64,
        "seconds": 754.2,
        "seconds_per_round": 1.5,
        "bytes_up": 8_010_000,
        "bytes_down": 4_000_000,
    }
    return result | ({"pooled_adapter_sha256": "a" * 64, "federated_equals_pooled": True} if compare else {})
