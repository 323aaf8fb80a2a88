"""What may follow what at a site: written down before it begins, and never two answers to one attempt."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from client.training.states import FILE, FOLLOWS, MOST_SILENT, Attempt, Attempts, Silent, State, answering, silence
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Evaluation
from tests.whole_site import FakeSite, made, pointing, recorded, refused, run_of, task_of

ONE = Attempt("run", 1, 0, "fedavg")


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


def test_every_state_has_its_followers_and_only_they_follow(tmp_path: Path) -> None:
    assert set(FOLLOWS) == {None, *State}
    ways: dict[State | None, list[State]] = {None: []}
    for _ in State:
        ways |= {after: [*way, after] for before, way in ways.items() for after in FOLLOWS[before] if after not in ways}
    assert set(ways) == set(FOLLOWS), "every state is reached"
    for number, (before, after) in enumerate(product(FOLLOWS, State)):
        attempts = Attempts(tmp_path / str(number))
        for state in ways[before]:
            attempts.enter(ONE, state)
        if after in FOLLOWS[before]:
            attempts.enter(ONE, after)
        else:
            with pytest.raises(ValueError):
                attempts.enter(ONE, after)


def test_a_state_outlives_the_process_and_a_torn_line_is_none(tmp_path: Path, attempts: Attempts) -> None:
    attempts.enter(ONE, State.ALLOWED)
    attempts.enter(ONE, State.CHARGED)
    path = tmp_path / "state" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"run":"run","rou')
    assert Attempts(tmp_path).state(ONE) is State.CHARGED
    assert path.read_bytes() == whole and path.stat().st_mode & 0o777 == 0o600
    assert attempts.state(ONE) is State.CHARGED


JUMP = b'{"run":"run","round":1,"attempt":0,"kind":"x","state":"sent"}\n'


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"[]\n", JUMP])
def test_a_file_that_no_site_wrote_stops_the_site(tmp_path: Path, attempts: Attempts, line: bytes) -> None:
    (tmp_path / "state" / FILE).write_bytes(line)
    with pytest.raises(FedReasonError) as refusal:
        attempts.state(ONE)
    assert refusal.value.code is Code.LEDGER_DAMAGED and "line 1" in refusal.value.found


def test_after_two_silent_attempts_a_person_is_needed_and_those_that_were_wished_do_not_count(
    attempts: Attempts,
) -> None:
    for number in range(10):
        silence(attempts, ONE._replace(round=number), wished=True)
    for number in range(MOST_SILENT):
        attempts.require_person("run")
        silence(attempts, ONE._replace(attempt=number + 1))
        silence(attempts, ONE._replace(attempt=number + 1))
    with pytest.raises(FedReasonError) as refusal:
        attempts.require_person("run")
    assert refusal.value.code is Code.SITE_SILENCED and "client resume" in refusal.value.fix
    attempts.require_person("another")
    attempts.go_on()
    attempts.require_person("run")


def test_what_fails_while_it_computes_ends_in_silence_and_ctrl_c_does_not_count(attempts: Attempts) -> None:
    for number, error in enumerate((ValueError("x"), KeyboardInterrupt())):
        one = ONE._replace(attempt=number)
        attempts.enter(one, State.ALLOWED)
        with pytest.raises((Silent, KeyboardInterrupt)), answering(attempts, one):
            raise error
        assert attempts.state(one) is State.SILENT
    assert attempts._told.deaths == {"run": 1}


# --- The whole site ---


def test_an_attempt_is_answered_once_and_the_next_one_is_charged_anew(tmp_path: Path) -> None:
    folder, config = made(tmp_path), run_of()
    with recorded(folder) as seen:
        site = FakeSite(folder)
        assert isinstance(seen.ask(site, "train", task_of(config)), Contribution)
        for again in (site, FakeSite(folder)):
            assert seen.ask(again, "train", task_of(config)) is None
            assert seen.ask(again, "train", task_of(config, adapter=np.ones(400, dtype=np.float32))) is None
        assert seen.lines() == 1
        assert isinstance(seen.ask(site, "train", task_of(config, attempt=1)), Contribution)
        assert isinstance(seen.ask(site, "evaluate", task_of(config)), Evaluation)
        assert seen.ask(site, "evaluate", task_of(config)) is None
    assert [(entry.release.attempt, entry.retry) for entry in site.ledger.entries()] == [(0, 0), (1, 1), (0, 0)]


def test_the_ledger_alone_keeps_an_attempt_from_being_computed_twice(tmp_path: Path) -> None:
    folder, config = made(tmp_path), run_of()
    with recorded(folder) as seen:
        seen.ask(FakeSite(folder), "train", task_of(config))
        (folder / "state" / FILE).unlink()
        assert seen.ask(FakeSite(folder), "train", task_of(config)) is None
        assert len(seen.touched) == len({patient for patient, _ in seen.touched})


def test_two_folders_of_one_ledger_with_runs_of_one_name_need_no_person_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the ledger knows of another folder's run is no crash of this one's."""
    folder, config = made(tmp_path), run_of()
    with recorded(folder) as seen:
        for number in range(1, MOST_SILENT + 2):
            (folder / "state" / FILE).unlink(missing_ok=True)
            seen.ask(FakeSite(folder), "train", task_of(config, number))
        (folder / "state" / FILE).unlink()
        site = FakeSite(folder)
        for number in range(1, MOST_SILENT + 2):
            assert seen.ask(site, "train", task_of(config, number)) is None
        assert "of another name goes on" in caplog.text
        assert isinstance(seen.ask(site, "train", task_of(config, MOST_SILENT + 2)), Contribution)


def test_attempts_at_a_round_are_limited_by_the_policy_whatever_their_numbers(tmp_path: Path) -> None:
    folder, config = made(tmp_path), run_of()
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace("max_attempts = 1000000", "max_attempts = 2"))
    with recorded(folder) as seen:
        site = FakeSite(folder)
        kinds = [refused(seen.ask(site, "train", task_of(config, attempt=number))) for number in (2, -1, 1, 0, 1)]
    assert kinds == [Code.POLICY_REFUSED, Code.POLICY_REFUSED, None, None, None] and seen.lines() == 2


def test_a_run_that_is_configured_otherwise_has_no_attempts_of_its_own_and_one_of_another_name_has(
    tmp_path: Path,
) -> None:
    folder = made(tmp_path)
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace("max_attempts = 1000000", "max_attempts = 2"))
    with recorded(folder) as seen:
        site = FakeSite(folder)
        for seed in range(2):
            assert isinstance(seen.ask(site, "train", task_of(run_of(seed=seed), attempt=seed)), Contribution)
        for number, config in enumerate((run_of(seed=2), run_of(seed=3, grpo={"group_size": 2}))):
            assert seen.ask(site, "train", task_of(config, attempt=number)) is None, "begun before"
        assert seen.lines() == 2
        assert isinstance(seen.ask(site, "train", task_of(run_of("another"))), Contribution)


def test_one_patient_s_failure_is_that_patient_s_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sum is that of all the others, whatever the failure; and what failed is told here, without content."""
    folder, config = made(tmp_path), run_of()
    failing = FakeSite(folder).training(config)[1].id
    for number, error in enumerate((ValueError(f"SENTINEL {failing}"), MemoryError(), torch_error(), float("nan"))):

        def gradient(patient: str, error: object = error) -> np.ndarray:
            if patient == failing:
                if isinstance(error, Exception):
                    raise error
                return np.full(400, error, dtype=np.float32)
            return pointing(patient)

        with recorded(folder, gradient) as seen:
            site = FakeSite(folder)
            reply = seen.ask(site, "train", task_of(config, number + 1))
            assert isinstance(reply, Contribution)
            others = [patient for patient in site.training(config) if patient.id != failing]
            expected = sum(pointing(patient.id).astype(np.float64) for patient in others) * 1000
            noise = seen.noise[0][1]
            assert np.abs(reply.total - noise - expected).max() <= len(others) + 1
            counts = seen.ask(site, "evaluate", task_of(config, number + 1))
            assert isinstance(counts, Evaluation) and seen.lines() == 2 * number + 2
    assert "counts as nothing" in caplog.text and "SENTINEL" not in caplog.text


def torch_error() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory")


def test_where_the_machine_fails_nothing_leaves(tmp_path: Path) -> None:
    """Else one patient's failure would be everybody's zero."""
    folder, config = made(tmp_path), run_of()

    def gradient(_: str) -> np.ndarray:
        raise RuntimeError

    with recorded(folder, gradient) as seen:
        site = FakeSite(folder)
        site.fake.broken = True
        assert seen.ask(site, "train", task_of(config)) is None
        assert seen.ask(site, "train", task_of(config, attempt=1)) is None
        assert refused(seen.ask(site, "train", task_of(config, attempt=2))) == Code.SITE_SILENCED
        assert len(seen.sent) == 1 and seen.lines() == 2
        Attempts(folder).go_on()
        site.fake.broken = False
        assert isinstance(seen.ask(site, "train", task_of(config, attempt=2)), Contribution)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, -1.1e4])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_an_adapter_beyond_all_reason_is_refused_before_a_record_is_touched(
    tmp_path: Path, value: float, kind: str
) -> None:
    folder, config = made(tmp_path), run_of()
    adapter = np.zeros(400, dtype=np.float32)
    adapter[7] = value
    with recorded(folder) as seen:
        task = task_of(config, adapter=adapter)
        assert refused(seen.ask(FakeSite(folder), kind, task)) == Code.MODEL_ADAPTER
        short = task_of(config, adapter=np.zeros(3, dtype=np.float32))
        assert refused(seen.ask(FakeSite(folder), kind, short)) == Code.MODEL_ADAPTER
    assert not seen.touched and not seen.lines()


def test_without_privacy_nothing_is_written_and_the_same_is_answered_again(tmp_path: Path) -> None:
    config = run_of(privacy=None)
    folder = made(tmp_path, config)
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace("[privacy]", "[privacy]\nrequired = false"))
    with recorded(folder) as seen:
        one, two = (seen.ask(FakeSite(folder), "train", task_of(config)) for _ in range(2))
    assert isinstance(one, Contribution) and isinstance(two, Contribution) and np.array_equal(one.total, two.total)
    assert not (folder / "state" / FILE).exists() and not seen.noise
