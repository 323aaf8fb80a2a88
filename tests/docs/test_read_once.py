"""What a site reads once and what at every round: as the guides say, and each refusal's fix with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.node.handlers import resident_site
from client.site.config import load_site
from common.errors import Code
from tests.federations import refused
from tests.hospitals import federation_of, machine, restart, settle
from tests.paths import ROOT

ERRORS = (ROOT / "docs" / "errors.md").read_text()
FIXES = {
    head[: head.index("\n")]: " ".join(head.strip().split("\n\n", 2)[-1].split())
    for head in re.split(r"^## ", ERRORS, flags=re.MULTILINE)[1:]
}
CHANGED = re.compile(r"`site\.toml`|environment variable|codebook")
AGAIN = re.compile(r"\b[Ss]tarts? (it|the site|its site) again\b")
NOT_OF_A_SITE_THAT_RUNS = {
    "E208 CODEBOOK_SOURCE": "of a draft",
    "E835 PRIVACY_UNIT": "what the hospital changes is policy.toml, and the codebook is the coordinator's",
    "E901 FEDERATION_MISSING": "of the coordinator's commands, each of which is a program of its own",
}


@pytest.fixture
def amc() -> Iterator[Path]:
    with machine() as folder:
        yield federation_of(folder, "amc", "snubh")[0]


def test_a_fix_that_changes_what_is_read_once_says_to_start_the_site_again() -> None:
    about = {name: fix for name, fix in FIXES.items() if CHANGED.search(fix)}
    assert len(about) > 15 and set(NOT_OF_A_SITE_THAT_RUNS) <= set(about)
    silent = {name for name, fix in about.items() if not AGAIN.search(fix)}
    assert silent == set(NOT_OF_A_SITE_THAT_RUNS)


def test_site_toml_counts_from_the_next_start_and_the_list_of_opt_outs_at_once(amc: Path) -> None:
    running = resident_site(amc)
    everyone = len(running.patients)
    (amc / "excluded.txt").write_text("nobody-of-that-name\n")
    refused(Code.EXCLUSIONS_UNKNOWN, lambda: running.patients)
    settle(amc, exclusions={"whole_hospital": True})
    refused(Code.EXCLUSIONS_UNKNOWN, lambda: running.patients)
    restart()
    assert len(resident_site(amc).patients) == everyone
    (amc / "excluded.txt").unlink()
    refused(Code.REGISTRY_MISSING, lambda: resident_site(amc).patients)
    (amc / "excluded.txt").write_text("")
    assert len(resident_site(amc).patients) == everyone


def test_the_codebook_counts_from_the_next_start_and_the_registry_at_once(amc: Path) -> None:
    running = resident_site(amc)
    path, book = amc / "registry.csv", load_site(amc).codebook
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},remark", *(f"{row},x" for row in rows)]) + "\n")
    refused(Code.REGISTRY_UNDESCRIBED, running.look_again)
    book.write_text(f'ignored = ["remark"]\n{book.read_text()}')
    refused(Code.REGISTRY_UNDESCRIBED, running.look_again)
    restart()
    assert len(resident_site(amc).patients) == len(rows)
