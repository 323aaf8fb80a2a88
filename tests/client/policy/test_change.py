"""A policy that became weaker is named limit by limit and used only once a person has confirmed it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from bench.waiting import PATIENCE
from client.policy.change import LOOSER, keep, loosened, read_kept, require_confirmed
from client.policy.limits import PrivacyLimits
from client.policy.policy import POLICY_FILE, Policy, read_policy
from client.policy.signature import OFFICER_KEY
from common.errors import Code, FedReasonError
from common.identity.keys import new_signing_key, public_text
from tests.checked import mutated
from tests.privacy_checks.policy_change import CHANGES, CHECKS, OLD, sign_at, with_limit

MUTATIONS = mutated(CHECKS)


def limits(model: type[BaseModel], prefix: str = "") -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names |= limits(nested, f"{prefix}{name}.")
        else:
            names.add(prefix + name)
    return names


def test_a_weaker_policy_never_comes_in_force_unconfirmed() -> None:
    assert all(check.passes() for check in CHECKS)


@pytest.mark.parametrize("survives", MUTATIONS)
def test_the_check_above_fails_where_the_confirmation_is_broken(survives: Callable[[], bool]) -> None:
    assert not survives()


def test_every_limit_has_a_weaker_way() -> None:
    assert set(LOOSER) == limits(Policy) == set(CHANGES)


@pytest.mark.parametrize("limit", CHANGES)
def test_a_limit_that_allows_more_is_named_and_one_that_allows_less_is_not(limit: str) -> None:
    before, after = CHANGES[limit]
    old, new = with_limit(OLD, limit, before), with_limit(OLD, limit, after)
    assert [line.partition(":")[0] for line in loosened(old, new)] == [limit]
    assert loosened(new, old) == [] and loosened(old, old) == []


def test_what_a_file_leaves_out_counts_as_it_acts() -> None:
    strict = Policy()
    plain = Policy(metrics="plain")
    assert {line.partition(":")[0] for line in loosened(strict, plain)} == {
        *("metrics", "privacy.required", "privacy.min_sites"),
    }
    assert loosened(strict, Policy(privacy=PrivacyLimits(min_sites=5))) == []
    assert loosened(strict, Policy(privacy=PrivacyLimits(min_sites=4))) == ["privacy.min_sites: 3, 5 -> 4, 4"]
    assert loosened(Policy(base_models=("*",)), Policy(base_models=("tiny", "other"))) == []


def write(folder: Path, epsilon: float) -> None:
    (folder / POLICY_FILE).write_text(f"[privacy]\nepsilon = {epsilon}\n")


def refused(folder: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        require_confirmed(folder, read_policy(folder))
    assert caught.value.code is Code.POLICY_WEAKER
    return caught.value


def test_a_weaker_policy_is_refused_until_it_is_confirmed_and_a_stricter_one_is_not(tmp_path: Path) -> None:
    write(tmp_path, 3.0)
    require_confirmed(tmp_path, read_policy(tmp_path))  # a site that never started has nothing to compare with
    keep(tmp_path, read_policy(tmp_path))
    write(tmp_path, 8.0)
    assert "privacy.epsilon: 3.0 -> 8.0" in refused(tmp_path).found
    with pytest.raises(FedReasonError):
        keep(tmp_path, read_policy(tmp_path))
    kept = read_kept(tmp_path)
    assert kept is not None and kept.policy.privacy.epsilon == 3.0
    keep(tmp_path, read_policy(tmp_path), confirmed=True)
    assert require_confirmed(tmp_path, read_policy(tmp_path)) == []
    write(tmp_path, 2.0)
    keep(tmp_path, read_policy(tmp_path))
    write(tmp_path, 3.0)
    assert "2.0 -> 3.0" in refused(tmp_path).found


def test_a_newer_signature_of_the_officer_confirms_and_an_older_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    officer = new_signing_key()
    (tmp_path / OFFICER_KEY).write_text(public_text(officer))

    def signed(epsilon: float, moment: str) -> None:
        write(tmp_path, epsilon)
        sign_at(tmp_path, officer, moment)

    signed(8.0, "2026-01-01T00:00:00Z")
    keep(tmp_path, read_policy(tmp_path))
    signed(9.0, "2026-01-02T00:00:00Z")
    keep(tmp_path, read_policy(tmp_path))
    assert "privacy.epsilon: 8.0 -> 9.0" in caplog.text
    signed(3.0, "2026-01-03T00:00:00Z")
    keep(tmp_path, read_policy(tmp_path))
    signed(9.0, "2026-01-02T00:00:00Z")  # the earlier file, put back with its signature
    assert "3.0 -> 9.0" in refused(tmp_path).found
    signed(3.0, "2026-01-05T00:00:00Z")  # the same bytes, signed anew
    keep(tmp_path, read_policy(tmp_path))
    signed(9.0, "2026-01-04T00:00:00Z")
    assert "3.0 -> 9.0" in refused(tmp_path).found


def test_a_kept_policy_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3.0)
    keep(tmp_path, read_policy(tmp_path))
    (tmp_path / "state" / "policy.json").write_text("{")
    assert "cannot be read" in refused(tmp_path).found


def test_a_policy_that_was_kept_before_there_was_a_highest_number_of_rounds_is_still_read(tmp_path: Path) -> None:
    """Else every site of the version before would refuse to start."""
    write(tmp_path, 3.0)
    keep(tmp_path, read_policy(tmp_path))
    path = tmp_path / "state" / "policy.json"
    kept = json.loads(path.read_bytes())
    later = {
        "min_temperature",
        "max_temperature",
        "min_top_p",
        "max_group_size",
        "max_questions",
        "max_attempts",
        "patient",
    }
    before = {name: value for name, value in kept["policy"].items() if name not in later} | {"max_rounds": None}
    path.write_text(json.dumps(kept | {"policy": before}))
    keep(tmp_path, read_policy(tmp_path))
    write(tmp_path, 8.0)
    assert "privacy.epsilon: 3.0 -> 8.0" in refused(tmp_path).found and "max_" not in refused(tmp_path).found


def confirm(folder: Path, *words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client", "policy", "confirm", "--site", str(folder), *words],
        input=answer,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.long
def test_the_command_shows_asks_and_takes_a_hash_instead(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "amc"\n[registry]\npath = "r.csv"\n')
    write(tmp_path, 3.0)
    keep(tmp_path, read_policy(tmp_path))
    write(tmp_path, 8.0)
    done = confirm(tmp_path, answer="n\n")
    assert done.returncode == 130 and "privacy.epsilon: 3.0 -> 8.0" in done.stdout
    done = confirm(tmp_path, "--sha256", "a" * 64)
    assert done.returncode == 1 and "E834" in done.stderr
    refused(tmp_path)
    done = confirm(tmp_path, "--sha256", read_policy(tmp_path).sha256)
    assert done.returncode == 0 and require_confirmed(tmp_path, read_policy(tmp_path)) == []
    assert "nothing to confirm" in confirm(tmp_path).stderr
