"""What a coordinator is told of sites that did not take part: by name, by kind, by number, and what to do."""

from __future__ import annotations

import pytest

from common.errors import Code
from server.rounds.refusals import ADVICE, advice, all_told, in_short, kind_of, meaning, remedy, told
from tests.paths import ROOT

FROM_SITES = [code for code in Code if code not in {Code.RUN_QUORUM, Code.RUN_OTHER_CONFIG, Code.RUN_LOCKED}]
MIXED = {
    "amc": int(Code.POLICY_REFUSED),
    "ycuh": int(Code.RUN_ABSENT),
    "snubh": int(Code.SITE_WORKER),
    "kuh": int(Code.MODEL_MAKING),
    "smc": int(Code.SITE_SILENT),
}


@pytest.mark.parametrize("code", FROM_SITES)
def test_every_number_has_something_to_do(code: Code) -> None:
    text = advice("amc", int(code))
    assert len(text) > 20 and "{" not in text
    assert told("amc", int(code)).startswith("amc ") and f"E{int(code)}" in told("amc", int(code))


def test_the_numbers_that_a_hospital_decides_have_a_sentence_of_their_own() -> None:
    own = {code for code in Code if 400 <= code < 410 or 701 <= code < 720 or 812 <= code < 860}
    assert own <= ADVICE.keys()
    assert len(set(ADVICE.values())) >= len(ADVICE) - 2


def test_absence_is_told_apart_from_refusal_and_both_from_failure() -> None:
    kinds = {site: kind_of(number) for site, number in MIXED.items()}
    assert kinds == {"amc": "refused", "ycuh": "offline", "snubh": "failed", "kuh": "busy", "smc": "silent"}
    assert [line.partition(":")[0] for line in all_told(MIXED)] == [
        "amc refused",
        "snubh failed",
        "kuh cannot for now",
        "smc is online and did not answer in time",
        "ycuh is offline",
    ]
    assert in_short(MIXED) == (
        "refused: amc (E832 policy refused); failed: snubh (E814 site worker); busy: kuh (E408 model making); "
        "silent: smc (E813 site silent); offline: ycuh"
    )


def test_a_site_that_refused_is_not_to_be_brought_back_and_one_that_is_away_is_not_to_be_argued_with() -> None:
    assert "start" not in remedy({"amc": 832}).partition(", then")[0].lower()
    assert remedy({"amc": 832}).startswith("Change the run")
    assert remedy({"amc": 507}).startswith("Have the absent sites started")
    assert remedy({"amc": 832, "b": 813}).startswith("Change the run or have the site change what it refused for, have")
    assert remedy({"amc": 812}).startswith("Wait") and remedy({}).startswith("See `python -m server status`")


def test_a_number_of_another_version_is_told_as_it_is() -> None:
    assert (meaning(831), meaning(12)) == ("E831 policy missing", "E12")
    assert "same version" in told("amc", 12)


def test_docs_tell_every_kind() -> None:
    text = (ROOT / "docs" / "coordinator.md").read_text()
    assert all(f"| {kind} |" in text for kind in ("refused", "failed", "busy", "silent", "offline"))
