"""A page taken apart, and the rows of a small run that pages are made of."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from common.config import RunConfig
from server.rounds.store import RoundRow

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
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "div" and attrs.get("id")]


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
