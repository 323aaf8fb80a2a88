"""The pictures of the guides are taken by a command, small, and those that the guides show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.screenshots import LARGEST, PICTURES
from tests.bench.called import figures
from tests.browsing import needs_browser
from tests.paths import ROOT

KEPT = ROOT / "docs" / "pictures"


@needs_browser
@pytest.mark.browser
def test_every_picture_is_taken_and_small(tmp_path: Path) -> None:
    sizes = figures("screenshots", "--out", tmp_path)
    assert {path.stem: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    assert sizes.keys() == {one.name for one in PICTURES}
    assert max(sizes.values()) <= LARGEST


def test_the_guides_show_the_pictures_that_are_kept_each_with_words_for_who_does_not_see_it() -> None:
    shown = {
        name: words
        for page in (ROOT / "docs").glob("*.md")
        for words, name in re.findall(r"!\[([^\]]*)\]\(pictures/([a-z-]+)\.png\)", page.read_text())
    }
    assert shown.keys() == {one.name for one in PICTURES} == {path.stem for path in KEPT.iterdir()}
    assert all(words for words in shown.values())
    assert all(path.stat().st_size <= LARGEST for path in KEPT.iterdir())
