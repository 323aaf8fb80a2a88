"""A part of a page of docs/ that a bench command writes, and the figures behind it beside the page as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

END = "<!-- end -->"


@dataclass(frozen=True)
class Part:
    """What stands on a page between the mark of a command and the next end."""

    page: str
    figures: str
    begin: str

    def write(self, rows: Sequence[Any], shown: str, docs: Path) -> None:
        """Keep the rows, and show them on the page in place of what was shown before."""
        (docs / self.figures).write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
        page = docs / self.page
        before, _, rest = page.read_text(encoding="utf-8").partition(self.begin)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{self.begin}\n\n{shown}\n{END}{after}", encoding="utf-8")
