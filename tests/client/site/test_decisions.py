"""What people decided at a site is written down: policies, officers and rosters, by whom and what became weaker."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.policy.change import keep, read_kept
from client.policy.policy import read_policy
from client.policy.signature import new_officer_key, pin_officer, sign_policy
from client.site.decisions import FILE, decided, decisions
from common.errors import Code, FedReasonError
from common.identity.keys import load_signing_key
from tests.paths import ROOT


def policy(folder: Path, epsilon: int) -> None:
    (folder / "policy.toml").write_text(f"[privacy]\nepsilon = {epsilon}\n")


def test_a_policy_that_came_into_force_stands_there_with_what_it_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "kim")
    policy(tmp_path, 8)
    keep(tmp_path, read_policy(tmp_path))
    first = read_policy(tmp_path).sha256
    policy(tmp_path, 80)
    with pytest.raises(FedReasonError) as refusal:
        keep(tmp_path, read_policy(tmp_path))
    assert refusal.value.code is Code.POLICY_WEAKER and len(decisions(tmp_path)) == 1, "nobody has decided yet"
    keep(tmp_path, read_policy(tmp_path), confirmed=True)
    keep(tmp_path, read_policy(tmp_path))
    weaker, started = decisions(tmp_path)
    assert started is not None and (started.before, started.after, started.allows) == (None, first, ())
    assert weaker is not None and (weaker.what, weaker.by, weaker.before) == ("policy", "kim", first)
    assert weaker.after == read_policy(tmp_path).sha256 and weaker.allows == ("privacy.epsilon: 8.0 -> 80.0",)
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600


def test_another_officers_key_stands_there_and_what_their_signature_confirms_is_theirs(tmp_path: Path) -> None:
    first, second = (new_officer_key(tmp_path / name) for name in ("one", "two"))
    pin_officer(tmp_path, tmp_path / "one.pub")
    pin_officer(tmp_path, tmp_path / "one.pub")
    pin_officer(tmp_path, tmp_path / "two.pub", replace=True)
    policy(tmp_path, 8)
    path = tmp_path / "policy.toml"
    sign_policy(path, path.read_bytes(), load_signing_key(tmp_path / "two"))
    keep(tmp_path, read_policy(tmp_path))
    told = [(one.what, one.before, one.after) for one in reversed(decisions(tmp_path)) if one is not None]
    assert told == [
        ("officer", None, first),
        ("officer", first, second),
        ("policy", None, read_policy(tmp_path).sha256),
    ]
    latest = decisions(tmp_path)[0]
    assert latest is not None and latest.by == second


def test_a_disk_that_takes_half_a_line_is_an_error_and_the_policy_is_not_kept(tmp_path: Path) -> None:
    """A file may grow no further here, as on a full disk; in a process of its own, which the limit is for."""
    policy(tmp_path, 8)
    keep(tmp_path, read_policy(tmp_path))
    policy(tmp_path, 4)
    script = """
import resource, signal, sys
from pathlib import Path
from client.policy.change import keep
from client.policy.policy import read_policy
from client.site.decisions import FILE
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = (folder / "state" / FILE).stat().st_size + 20
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    keep(folder, read_policy(folder))
except OSError:
    sys.exit(7)
"""
    before = (tmp_path / "state" / FILE).read_bytes()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "state" / FILE).read_bytes() == before
    kept = read_kept(tmp_path)
    assert kept is not None and kept.sha256 != read_policy(tmp_path).sha256


def test_a_line_that_is_damaged_hides_no_other(tmp_path: Path) -> None:
    decided(tmp_path, "roster", before=None, after="a" * 64)
    with (tmp_path / "state" / FILE).open("a") as file:
        file.write('{"time": ')
    decided(tmp_path, "roster", before="a" * 64, after="b" * 64)
    assert [one and one.after[:1] for one in decisions(tmp_path)] == ["b", None, "a"]
