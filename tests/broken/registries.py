"""What is wrong with a registry, and the refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from common.errors import Code
from tests.sentinels import MARKER, NUMBERS


def _doubled(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]) + "\n")


def _blank(path: Path) -> None:
    path.write_text(re.sub(rf"^{MARKER}\w+", "", path.read_text(), count=1, flags=re.MULTILINE))


def _headless(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def _wider(path: Path) -> None:
    path.write_text(path.read_text().rstrip("\n") + f",{MARKER}\n")


def _unquoted(path: Path) -> None:
    path.write_text(path.read_text().replace(f"{MARKER} mmol", f'"{MARKER} mmol', 1))


def _not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(MARKER.encode(), MARKER.encode() + b"\xff", 3))


def _of_no_use(path: Path) -> None:
    text = path.read_text()
    for value in NUMBERS.values():
        text = text.replace(f"{value:.6f}", MARKER)
    path.write_text(re.sub(r",[rgby],", f",{MARKER},", text))


BREAKS: dict[str, tuple[Callable[[Path], None], Code | None]] = {
    "a patient twice": (_doubled, Code.REGISTRY_DUPLICATE_PATIENT),
    "no identifier": (_blank, Code.REGISTRY_DUPLICATE_PATIENT),
    "no header": (_headless, Code.REGISTRY_COLUMN),
    "a row too wide": (_wider, Code.REGISTRY_TORN),
    "a quote too many": (_unquoted, Code.REGISTRY_TORN),
    "not UTF-8": (_not_utf8, Code.REGISTRY_ENCODING),
    "no usable value": (_of_no_use, Code.REGISTRY_UNUSABLE),
    "as it should be": (lambda path: None, None),
}
"""What is wrong with a registry, and the refusal."""
